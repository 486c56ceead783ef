"""Instructions whose fulfilment a rule can check: Instruction-Following Evaluation for Large Language Models.

Zhou, Lu, Mishra, Brahma, Basu, Luan, Zhou, Hou; 2023; arXiv 2311.07911 (IFEval). Items are lines of JSON as
there: `prompt`, `instruction_id_list`, and `kwargs`, a mapping for each instruction.

    prompt_strict        share of prompts all of whose instructions are followed
    instruction_strict   share of all instructions that are followed
    prompt_loose         the same where any of eight readings of an answer counts: with and without its first
    instruction_loose    line, its last line, and all asterisks

Deviations: keywords are taken literally, not as patterns; capital words are found by a pattern rather than
nltk's tokenizer; the two English-only cases check the case alone. What needs a model or a sentence splitter
(language, number of sentences) is left out: an item that asks for it is refused.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.evaluation import lines

Rule = Callable[..., bool]
"""(answer, the instruction's keyword arguments) → whether it is followed."""


@dataclass(frozen=True)
class Item:
    """A prompt and what is asked of its answer: (instruction id, its arguments) each."""

    prompt: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]


def parse(text: str) -> list[Item]:
    """Items of lines of JSON. Raises ValueError that names the line and what is wrong with it."""
    return lines.parse(text, _item)


def followed(item: Item, answer: str) -> list[bool]:
    """Of every instruction; an empty answer follows none."""
    if not answer.strip():
        return [False] * len(item.instructions)
    return [RULES[name](answer, **arguments) for name, arguments in item.instructions]


def measure(items: Sequence[Item], answers: Sequence[str]) -> dict[str, float]:
    """The four shares over at least one item and its answer."""
    strict = [followed(item, answer) for item, answer in zip(items, answers, strict=True)]
    loose = [
        [any(each) for each in zip(*(followed(item, reading) for reading in readings(answer)), strict=True)]
        for item, answer in zip(items, answers, strict=True)
    ]
    found = {}
    for name, marks in (("strict", strict), ("loose", loose)):
        every = list(itertools.chain(*marks))
        found[f"prompt_{name}"] = sum(map(all, marks)) / len(marks)
        found[f"instruction_{name}"] = sum(every) / len(every)
    return found


def readings(answer: str) -> Iterator[str]:
    """The answer, and less of it: first line, last line, both, each with and without asterisks."""
    lines = answer.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(part).strip() if part is not lines else answer
        yield text
        yield text.replace("*", "")


def _item(row: Mapping[str, Any]) -> Item:
    names, arguments = row["instruction_id_list"], row["kwargs"]
    asked = []
    for name, given in zip(names, arguments, strict=True):
        if name not in RULES:
            raise ValueError(f"{name} is not an instruction that is checked here: {', '.join(RULES)}")
        kept = {
            key: value for key, value in given.items() if value is not None
        }  # the hub's files have all keys
        RULES[name]("x", **kept)  # a TypeError for arguments that it doesn't have
        asked.append((str(name), kept))
    if not asked or not str(row["prompt"]).strip():
        raise ValueError("expected a prompt and at least one instruction")
    return Item(str(row["prompt"]), tuple(asked))


# Rules ----------------------------------------------------------------------------------------------------


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"relation {relation!r}; expected `at least` or `less than`")
    return count >= bound if relation == "at least" else count < bound


def _occurrences(word: str, answer: str) -> int:
    return len(re.findall(re.escape(word.strip()), answer, re.IGNORECASE))


def existence(answer: str, keywords: Sequence[str]) -> bool:
    """All keywords occur."""
    return all(_occurrences(word, answer) for word in keywords)


def frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    """How often a keyword occurs."""
    return _compare(_occurrences(keyword, answer), relation, frequency)


def forbidden_words(answer: str, forbidden_words: Sequence[str]) -> bool:
    """None of these words occurs as a word."""
    return not any(re.search(rf"\b{re.escape(w)}\b", answer, re.IGNORECASE) for w in forbidden_words)


def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """How often a letter occurs, in either case."""
    return _compare(answer.lower().count(letter.lower()), let_relation, let_frequency)


def number_words(answer: str, num_words: int, relation: str) -> bool:
    """How many words there are."""
    return _compare(len(re.findall(r"\w+", answer)), relation, num_words)


def number_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, with *** between them."""
    parts = [part.strip() for part in answer.split("***")]
    inner = parts[1:-1]  # nothing need be before the first divider or behind the last
    ends = [part for part in (parts[:1] + parts[1:][-1:]) if part]
    return all(inner) and len(inner) + len(ends) == num_paragraphs


def nth_paragraph_first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs, with an empty line between them; one of them begins with a word."""
    parts = answer.split("\n\n")
    if len([part for part in parts if part.strip()]) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = parts[nth_paragraph - 1].split()
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0] if words else ""
    return bool(word) and word.lower() == first_word.lower()


def number_placeholders(answer: str, num_placeholders: int) -> bool:
    """At least so many [placeholders]."""
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def postscript(answer: str, postscript_marker: str) -> bool:
    """A postscript that begins with its marker."""
    spaced = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    marker = postscript_marker.strip()
    return bool(re.search(spaced.get(marker, re.escape(marker.lower())), answer.lower()))


def number_bullet_lists(answer: str, num_bullets: int) -> bool:
    """Exactly so many lines that begin with * or -."""
    return len(re.findall(r"^\s*(?:\*[^*]|-).*$", answer, re.MULTILINE)) == num_bullets


def constrained_response(answer: str) -> bool:
    """One of three answers."""
    return any(f"My answer is {choice}." in answer for choice in ("yes", "no", "maybe"))


def number_highlighted_sections(answer: str, num_highlights: int) -> bool:
    """At least so many *highlighted* parts; one in **double** asterisks counts too."""
    single = [part for part in re.findall(r"\*([^\n*]*)\*", answer) if part.strip()]
    double = [part for part in re.findall(r"\*\*([^\n*]*)\*\*", answer) if part.strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each begun by the word and a number."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", answer)) >= num_sections


def json_format(answer: str) -> bool:
    """The whole answer is JSON; it may stand in a Markdown fence."""
    text = re.sub(r"^```(?:json|Json|JSON)?", "", answer.strip()).removesuffix("```").strip()
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def title(answer: str) -> bool:
    """A title in <<double angular brackets>>."""
    return any(part.strip("<>").strip() for part in re.findall(r"<<[^\n]+>>", answer))


def two_responses(answer: str) -> bool:
    """Two different answers with ****** between them."""
    parts = [part.strip() for part in answer.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def repeat_prompt(answer: str, prompt_to_repeat: str) -> bool:
    """The request first, word for word."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(answer: str, end_phrase: str) -> bool:
    """A phrase is the last thing said."""
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(answer: str) -> bool:
    """All of it in double quotation marks."""
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    """How many words are in capitals; hyphens don't part words."""
    words = [word for word in re.findall(r"[\w-]+", answer) if word.isupper()]
    return _compare(len(words), capital_relation, capital_frequency)


RULES: dict[str, Rule] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "length_constraints:number_words": number_words,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "change_case:capital_word_frequency": capital_word_frequency,
    "punctuation:no_comma": lambda answer: "," not in answer,
}
"""Instruction id of IFEval → its rule."""
