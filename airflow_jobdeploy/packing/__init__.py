"""Bytes that move: project trees to a worker, artifacts back. As streams, never file by file."""
