"""Docker engines: their API, the objects that a job is made of, and what they tell."""
