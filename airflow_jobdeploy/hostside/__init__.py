"""What runs on the far side: standard library only, Python 3.8 grammar.

The folder is sent to a host as one content-addressed archive and started by `runner.py`.
The near side imports its names and wire format from here, never the reverse.
"""
