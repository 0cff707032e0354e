"""losses: what a student is told by its teacher; plain functions of tensors, a file each.

Common to all: ``student`` holds logits and ``teacher`` probabilities at temperature 1, both
``[batch, classes, *space]`` (``[batch, classes]`` for classification); ``weights`` says how much
each voxel counts (``[batch, *space]``, bool or float; all alike if None). Each returns its named
terms, already weighted against each other, whose sum is the loss. A loss is 0 where the student
agrees with its teacher, and does not change when batch or space is repeated.
"""
