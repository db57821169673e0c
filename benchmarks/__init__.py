"""What Job Deploy costs, each row beside the stock operator or tool in the same run: `make bench`.

    rows.py      the rows and their goals         run.py       the command: runs them, prints, writes results.json
    lab.py       an sshd and an Airflow home      measure.py   medians, CPU and memory of processes
    stock.py     the stock operators, run raw     the others   one module a subject

No test measures time: what is measured here is compared in the same run, so a busy machine slows both sides.
"""

from __future__ import annotations
