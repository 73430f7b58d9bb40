"""Makes `data/`: tiny random checkpoints, and the states that Hugging Face's own code gives them.

Run by hand where `transformers` is installed (the tests need it not); made with 5.23.0:
    python tests/cloud/text/make_golden.py
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

DATA = Path(__file__).resolve().parent / "data"
VOCABULARY, LENGTH = 64, 9
SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 24}
BERT = {
    **SMALL, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {
    "bert": transformers.BertModel(transformers.BertConfig(**BERT)),
    "roberta": transformers.RobertaModel(
        transformers.RobertaConfig(**BERT, hidden_act="gelu_new", type_vocab_size=1)
    ),
    "xlm-roberta": transformers.XLMRobertaForMaskedLM(
        transformers.XLMRobertaConfig(**BERT, type_vocab_size=1, layer_norm_eps=1e-5)
    ),
    "distilbert": transformers.DistilBertModel(
        transformers.DistilBertConfig(
            **SMALL,
            dim=8,
            n_layers=2,
            n_heads=2,
            hidden_dim=12,
            initializer_range=0.3,
            activation="relu",
        )
    ),
}


def main() -> None:
    torch.manual_seed(5)
    ids = torch.randint(2, VOCABULARY, (3, LENGTH))
    for family, model in FAMILIES.items():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # biases and norms too, else they are untried
        folder = DATA / family
        model.eval().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        body = getattr(model, "roberta", model)
        with torch.no_grad():
            states = body(input_ids=ids).last_hidden_state
        save_file({"ids": ids, "states": states}, folder / "golden.safetensors")


if __name__ == "__main__":
    main()
