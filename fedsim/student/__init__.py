"""How a model is stepped: `engine.py` in plain torch, `deepspeed.py` with DeepSpeed.

Both hold the model, its optimiser and nothing else; what is learnt is decided by the learner.
`deepspeed.py` is the only file of the project that imports deepspeed.
"""
