"""The verb ``search``: learn which dimensions are worth their bytes, and train what was found.

Stages, each a folder that a repeated command with ``--resume`` does not do again:

    supernet            training with what the method learns beside the weights
    derive              dimensions (or elements) within the budget; tables.yaml and weights
    dense, sparse, ...  an ordinary fit of every form and of every baseline

The files of validation and test are read by the last stage only.
"""
