"""Places where jobs run. `base.py` is the contract; every backend passes `tests/contract/` unchanged."""
