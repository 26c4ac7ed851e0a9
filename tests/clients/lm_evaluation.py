"""EleutherAI's lm-evaluation-harness against a running server with the bundled model: generation and log-likelihoods of two
small tasks (tests/clients/tasks), asked for in every way that the harness knows of asking.

    pip install -r tests/clients/lm_evaluation.txt
    python tests/clients/lm_evaluation.py http://127.0.0.1:8000
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCAL = "tokenizer_backend=huggingface,tokenizer=models/countdown/evotoken"
BOTH = "countdown_generate,countdown_choose"


def evaluate(model, url, arguments, tasks, *options):
    """Run the harness, print its table, and return per task what it asked and got, sample by sample."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            Path(sys.executable).with_name("lm_eval"),
            *("--model", model, "--model_args", f"model=countdown,base_url={url},max_length=512,{arguments}"),
            *("--include_path", "tests/clients/tasks", "--tasks", tasks),
            *("--output_path", folder, "--log_samples", *options),
        ]
        # Everything is local: no hub is asked, and nothing is left in the user's caches.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": folder, "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "API request failed" not in done.stderr, done.stderr
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith("|")), flush=True)
        samples = {}
        for task in tasks.split(","):
            (path,) = Path(folder).glob(f"**/samples_{task}_*.jsonl")
            rows = map(json.loads, path.read_text().splitlines())
            samples[task] = {row["doc_id"]: row["filtered_resps"] for row in rows}
            assert len(samples[task]) == 24, samples
        return samples


def told(feature):
    print(f"ok {feature}", flush=True)


def main():
    url = sys.argv[1].rstrip("/")
    completions = f"{url}/v1/completions"
    print(f"lm-eval {version('lm-eval')}, transformers {version('transformers')}", flush=True)

    tokens = evaluate("local-completions", completions, f"{LOCAL},add_bos_token=True", BOTH, "--batch_size", "8")
    told("generate_until and loglikelihood, token ids, eight prompts a request")

    arguments = f"{LOCAL},add_bos_token=True,num_concurrent=4"
    assert evaluate("local-completions", completions, arguments, BOTH, "--batch_size", "4") == tokens
    told("the same with four requests at once: the same answers and the same numbers")

    plain = evaluate("local-completions", completions, f"{LOCAL},tokenized_requests=False", BOTH)
    assert plain["countdown_generate"] == tokens["countdown_generate"], plain
    for doc, scores in plain["countdown_choose"].items():
        # The server puts <bos> before a text, the harness does not count it: it adds the last token of the question,
        # which is the same for all choices, to every sum.
        others = tokens["countdown_choose"][doc]
        gaps = [float(one[0]) - float(other[0]) for one, other in zip(scores, others, strict=True)]
        assert max(gaps) - min(gaps) < 1e-4, (doc, gaps)
    told("generate_until and loglikelihood, plain text")

    # Left to itself the harness finds /tokenizer_info, /tokenize and /detokenize, and needs no tokenizer of its own.
    assert evaluate("local-completions", completions, "tokenized_requests=False", BOTH) == plain
    told("the same with the server's own tokenizer: the same answers and the same numbers")

    bare = evaluate("local-completions", completions, "tokenizer_backend=None", "countdown_generate")
    assert bare["countdown_generate"] == tokens["countdown_generate"], bare
    told("generate_until without any tokenizer")

    chat = evaluate(
        "local-chat-completions", f"{url}/v1/chat/completions", "num_concurrent=4", "countdown_generate",
        "--apply_chat_template",
    )  # fmt: skip
    assert chat["countdown_generate"] == tokens["countdown_generate"], chat
    told("generate_until through the chat template")


if __name__ == "__main__":
    main()
