"""What lies inside models, made comparable: only numpy, so that it runs wherever messages are pooled.

features.py    hidden states → a few columns → one embedding of the proxy samples that all agree on
prototypes.py  centroids of groups in that embedding, with counts and confidence
domains.py     which participants a sample's answers come from

Responses need no such thing: their numbers mean the same everywhere.
"""
