"""PREDICTS: the same scheduler and feed as the real engine, in virtual time, over a cost model and contending links."""
