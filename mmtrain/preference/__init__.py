"""Learning from pairs of answers: DPO and its kin, on packed pairs, against a reference that was asked once.

A step takes the pairs of its packs. Of each answer the sum of its tokens' log-probabilities is compared with what the
reference gave it; the loss of a step is the mean over all its pairs, on whichever ranks and in whichever packs.
The reference is never run beside the model: it is the model as the run begins, or that without its adapters, so what it
says of the whole dataset is known before the first step and kept in a file.
"""
