"""What a message would take after each stage of its codec, from numbers as a model has them to what is sent.

Counted from the sizes alone, without writing anything. K classes, L levels, R rows, nnz entries:

    float32     every number in four bytes: 4 R K, or four for each parameter
    quantised   every number in as few bits as its levels need: R K ⌈log₂(L + 1)⌉ / 8
    listed      what is not zero alone, each with its class, in whole bits
    sent        with entropy coding, and against a reference where there is one: its length
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.types import Knowledge, MaskedSums, Mixture, Parameters, Responses, Update


def stages(knowledge: Knowledge, sections: Mapping[str, int]) -> dict[str, int]:
    """Bytes after each stage that the knowledge passes; of a mixture, those of its responses.

    sections: bytes of the message's sections, as `container.anatomy` says.   Empty for other kinds.
    """
    sent = sum(sections.values())
    if isinstance(knowledge, Mixture) and knowledge.responses is not None:
        knowledge, sent = knowledge.responses, sections.get("responses", 0)
    if isinstance(knowledge, Responses):
        return {**_of_responses(knowledge), "sent": sent}
    if isinstance(knowledge, Update):
        scales = 4 * len(knowledge.scales)
        packed = _bytes(len(knowledge.codes) * (2 * knowledge.levels).bit_length()) + scales
        return {"float32": 4 * len(knowledge.codes), "quantised": packed, "sent": sent}
    if isinstance(knowledge, Parameters):
        return {"float32": 4 * knowledge.size, "sent": sent}
    if isinstance(knowledge, MaskedSums):
        return {"float32": 4 * len(knowledge.codes), "sent": sent}
    return {}


def _of_responses(answers: Responses) -> dict[str, int]:
    numbers, entries = answers.rows * answers.classes, len(answers.ids)
    each = (answers.classes - 1).bit_length() + (answers.levels - 1).bit_length()
    length = (min(answers.classes, answers.levels) - 1).bit_length()
    return {
        "float32": 4 * numbers,
        "quantised": _bytes(numbers * answers.levels.bit_length()),
        "listed": _bytes(entries * each + answers.rows * length),
    }


def _bytes(bits: int) -> int:
    return -(-bits // 8)
