"""How the coordinator pools what the participants sent.

Messages arrive in any order and each is dropped once it is added, so a sum must be exact (the
same bits in every order) and its memory independent of the number of participants: exact.py.
"""
