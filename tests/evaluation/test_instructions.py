"""Instructions checked by rule: each against answers that follow it and answers that don't."""

import json

import pytest

from fedsim.evaluation.instructions import RULES, Item, followed, measure, parse, readings

AT_LEAST, LESS = "at least", "less than"
CASES = [
    # id, arguments, answers that follow it, answers that don't
    ("keywords:existence", {"keywords": ["Rain", "snow"]}, ["SNOW, then rain"], ["rain", "rains no"]),
    ("keywords:existence", {"keywords": ["Rain", "c++"]}, ["rain and C++"], ["rain"]),
    ("keywords:frequency", {"keyword": "a.b", "frequency": 2, "relation": AT_LEAST}, ["A.B a.b"], ["axb"]),
    ("keywords:frequency", {"keyword": "so", "frequency": 2, "relation": LESS}, ["so"], ["so also"]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, ["concatenate"], ["The Cat."]),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": AT_LEAST},
     ["eEe"], ["ee"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": AT_LEAST}, ["it's me"], ["me, too"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, ["me, too"], ["one two three"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["a\n***\nb", "***\na\n***\nb\n***"], ["a\n***\n\n***\nb", "a", "a *** b *** c"]),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Now"},
     ["a\n\n'now, then"], ["now\n\na", "a\n\nnow\n\nb", "a\n\nnowhere"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] and [b c]"], ["[a]", "a"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Yours\nP. S. x", "p.s. x"], ["PS x"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. more"], ["P.S. more"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n- b", "text\n * a\n * b"],
     ["* a", "**bold**\n* a", "* a\n* b\n* c"]),
    ("detectable_format:constrained_response", {}, ["Well. My answer is maybe."], ["My answer is yes"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* *b c*"], ["*a*", "* *"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb"], ["Section 1 Section 2", "SECTION 1"]),
    ("detectable_format:json_format", {}, ['{"a": [1]}', "```json\n[1, 2]\n```"], ["{a: 1}", "so: {}"]),
    ("detectable_format:title", {}, ["<<On rain>>\ntext"], ["<<>>", "<On rain>", "<< >>"]),
    ("combination:two_responses", {}, ["a\n******\nb", "******a******b"],
     ["a", "a******a", "a******b******c", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi. "}, ["say HI. Hi!"], ["Hi! Say hi."]),
    ("startend:end_checker", {"end_phrase": "That is all."}, ['"… that is all."  '], ["That is all. Bye"]),
    ("startend:quotation", {}, [' "a" '], ['"a', '"', "'a'"]),
    ("change_case:english_capital", {}, ["RAIN, 2 MM"], ["Rain"]),
    ("change_case:english_lowercase", {}, ["rain, 2 mm"], ["Rain"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": AT_LEAST},
     ["ALL-IN and NOW"], ["ALL-IN and Now"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": LESS},
     ["no"], ["NO"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES)
def test_a_rule_knows_right_from_wrong(name, arguments, right, wrong):
    item = Item("?", ((name, arguments),))
    assert [followed(item, answer) for answer in right] == [[True]] * len(right)
    assert [followed(item, answer) for answer in wrong] == [[False]] * len(wrong)
    assert followed(item, " \n") == [False]


def test_every_rule_has_a_case():
    assert {name for name, *_ in CASES} == set(RULES)


# Theirs looks at the language and at nltk's words as well, and takes keywords for patterns.
COMMON = [case for case in CASES if not case[0].startswith("change_case") and "c++" not in str(case)]


@pytest.mark.slow  # for its imports
@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), COMMON)
def test_the_harness_says_the_same(name, arguments, right, wrong):
    """The published checkers, where `lm-eval` is installed with what they need."""
    registry = pytest.importorskip("lm_eval.tasks.ifeval.instructions_registry")
    theirs = registry.INSTRUCTION_DICT[name](name)
    theirs.build_description(**arguments)
    for answers, expected in ((right, True), (wrong, False)):
        assert [bool(theirs.check_following(answer)) for answer in answers] == [expected] * len(answers)


def test_shares_by_hand():
    lower, comma = ("change_case:english_lowercase", {}), ("punctuation:no_comma", {})
    items = [Item("a", (lower, comma)), Item("b", (comma,)), Item("c", (lower,))]
    answers = ["yes, no", "none", "Sure!\nit rains"]
    # Followed: yes and no; yes; no. Without its first line the third answer is in small letters.
    assert measure(items, answers) == pytest.approx(
        {
            "prompt_strict": 1 / 3,
            "instruction_strict": 2 / 4,
            "prompt_loose": 2 / 3,
            "instruction_loose": 3 / 4,
        }
    )


def test_eight_readings():
    assert list(readings("*a*\nb\nc")) == [
        "*a*\nb\nc", "a\nb\nc", "b\nc", "b\nc", "*a*\nb", "a\nb", "b", "b",
    ]  # fmt: skip


def test_a_file_is_read_as_it_is_published():
    every = {key: None for key in ("num_words", "relation", "keywords")}
    row = {"key": 7, "prompt": "Hi", "instruction_id_list": ["keywords:existence", "punctuation:no_comma"],
           "kwargs": [{**every, "keywords": ["x"]}, every]}  # fmt: skip
    (item,) = parse(json.dumps(row) + "\n\n")
    assert item == Item("Hi", (("keywords:existence", {"keywords": ["x"]}), ("punctuation:no_comma", {})))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"instruction_id_list": ["language:response_language"]},
            "line 2: language:response_language is not",
        ),
        ({"kwargs": []}, "line 2: zip"),
        ({"kwargs": [{"colour": "red"}]}, "line 2: .*colour"),
        ({"prompt": " "}, "line 2: expected a prompt"),
        ({"kwargs": None}, "line 2: "),
    ],
)
def test_what_is_wrong_with_a_line_is_said(change, expected):
    row = {"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    with pytest.raises(ValueError, match=expected):
        parse(json.dumps(row) + "\n" + json.dumps({**row, **change}))
    with pytest.raises(ValueError, match="line 1: no 'instruction_id_list'"):
        parse('{"prompt": "Hi"}')


def test_an_unknown_relation_is_refused_when_it_is_read():
    row = {"prompt": "Hi", "instruction_id_list": ["length_constraints:number_words"],
           "kwargs": [{"num_words": 3, "relation": "about"}]}  # fmt: skip
    with pytest.raises(ValueError, match="line 1: relation 'about'"):
        parse(json.dumps(row))
