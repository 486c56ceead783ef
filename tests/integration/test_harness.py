"""An exported student in the Language Model Evaluation Harness, and what it says against what we say."""

import json

import pytest

from fedsim import simulation
from fedsim.executor import InProcess
from fedsim.loading import load

WORDS = ("list", "dict", "set", "tuple", "str", "int", "bytes", "float")
ITEMS = [
    {
        "question": f"import {a}\n\ndef make_{a}(): return",
        "choices": [a, f"{b}()", f"None of {b}"],
        "answer": k % 3,
    }
    for k, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a != b)
]
TRAINING = {"steps": 60, "batch_size": 8, "learning_rate": 3e-3}


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 2])
def test_both_choose_the_same_answers(tmp_path, shots: int):
    evaluator = pytest.importorskip("lm_eval.evaluator")
    for name, rows in (("all", ITEMS), ("examples", ITEMS[:2]), ("questions", ITEMS[2:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = load({
        "rounds": 1, "output": str(tmp_path / "run"),
        "data": {"source": "stdlib", "max_examples": 300, "vocabulary": 512, "window": 64},
        "participants": {"models": ["llama-tiny"], "count": 2},
        "student": {"model": "llama-tiny", "training": TRAINING},
        "evaluation": {"tasks": [{"name": "words", "path": f"{tmp_path}/all.jsonl", "shots": [shots, 2]}]},
        "methods": ["proxy_only"],
    })  # fmt: skip
    result = simulation.run(config, executor=InProcess())
    measures = result.measures.set_index("name")["value"]
    task = {
        "task": "words", "dataset_path": "json", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {k: f"{tmp_path}/{k}.jsonl" for k in ("examples", "questions")}},
        "test_split": "questions", "fewshot_split": "examples", "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    found = evaluator.simple_evaluate(
        model="hf", model_args=f"pretrained={result.student},dtype=float32", tasks=[task], num_fewshot=shots,
        device="cpu", batch_size=4, bootstrap_iters=0,
    )["results"]["words"]  # fmt: skip
    for ours, theirs in (("accuracy", "acc,none"), ("accuracy_normalised", "acc_norm,none")):
        assert measures[f"task/words/{shots}_shot/{ours}"] == pytest.approx(found[theirs])
    assert 0 < found["acc,none"] < 1
