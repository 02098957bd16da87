"""Sweeps: studies of configurations by Optuna, and the report of them.

A *study* is a set of *trials* that a storage keeps; a trial is a configuration, trained. Nothing
here trains: the command line does, in processes of their own (:mod:`recemb.sweep.worker`).
"""
