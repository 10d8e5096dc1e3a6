"""The embedded sandbox: a microworld with its prompt set, models, gold scorer and judge. See world.py.

Nothing outside this folder imports it; the rest of the package reaches it through references such as `sandbox/judge`.
"""
