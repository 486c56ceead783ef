"""From knowledge to bytes and back: `encode` makes a message, `decode` checks and reads one.

container.py   the frame of every message      messages.py   what is inside, one codec per kind
inner.py       codecs of features, prototypes reading.py     what decoders begin with
quantise.py    probabilities → counts          entropy.py    streams of integers → bits
delta.py       counts against a reference      cache.py      what both ends hold of earlier rounds
feedback.py    errors of quantising, kept     stages.py      what each stage of it all saves

To add a codec for another kind of knowledge: a pair of functions (knowledge → sections, sections
→ knowledge), its kind and section names in `container.KINDS` and `container.SECTIONS`, and one
line in `messages.CODECS`. A quantiser is one line in `quantise.QUANTISERS`, an entropy coder one
in `entropy.CODERS`.
"""

from fedsim.wire.expectation import Expectation
from fedsim.wire.messages import decode, encode, memory_limit

__all__ = ["Expectation", "decode", "encode", "memory_limit"]
