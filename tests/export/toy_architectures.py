"""Checkpoints of every tested architecture: random weights, two layers of width 32."""

import json

from tests.toys import write_tokenizer

CONFIGS = {
    # name -> (configuration class, its arguments, pooling, limit in tokens)
    "bert": ("BertConfig", {"max_position_embeddings": 64}, "cls", 64),
    "roberta": ("RobertaConfig", {"max_position_embeddings": 66, "type_vocab_size": 1}, "mean", 64),
    "xlm-roberta": ("XLMRobertaConfig", {"max_position_embeddings": 66, "type_vocab_size": 1}, "cls", 64),
    "distilbert": (
        "DistilBertConfig",
        {"max_position_embeddings": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        "mean",
        64,
    ),
    # 8 tokens to either side in every second layer: the limit is far beyond
    "modernbert": (
        "ModernBertConfig",
        {"max_position_embeddings": 128, "local_attention": 16, "global_attn_every_n_layers": 2},
        "mean",
        128,
    ),
    "qwen3": (
        "Qwen3Config",
        {"max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 8},
        "lasttoken",
        64,
    ),
}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def make_architecture(name, folder, corpus, **changes):
    """Write an encoder's checkpoint as published; `changes`: settings of its configuration."""
    import torch
    import transformers

    config = write_tokenizer_and_config(name, folder, corpus)
    config.update(changes)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    pooling = CONFIGS[name][2]
    (folder / "1_Pooling").mkdir()
    write(folder / "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode": pooling})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}})
    return folder


def make_cross_encoder(name, folder, corpus, head="categorical", types=False, **changes):
    """Write a sequence classifier's checkpoint.

    Args:
        types: Tokens of the two texts have types 0 and 1.
        changes: Settings of its configuration.
    """
    import torch
    import transformers

    config = write_tokenizer_and_config(name, folder, corpus, types=types)
    config.update(changes)
    config.max_position_embeddings = 258  # pairs are longer than texts
    config.num_labels = {"categorical": 4, "ordinal": 3, "regression": 1}[head]
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for _, weight in model.named_parameters():  # heads of wide logits: probabilities far from even
        if weight.shape[0] == config.num_labels:
            torch.nn.init.normal_(weight, std=1.5)
    model.save_pretrained(folder)
    if head == "ordinal":
        content = json.loads((folder / "config.json").read_text())
        write(folder / "config.json", {**content, "relsdk_head": "ordinal"})
    return folder


def write_tokenizer_and_config(name, folder, corpus, types=False):
    """Write the tokenizer (a decoder's adds an end token and no first one); return the configuration."""
    import transformers

    couples = sorted({text[i : i + 2] for text in corpus for i in range(0, len(text) - 1, 2)})
    scored = [(piece, -10.0) for piece in couples if " " not in piece]
    second = ":1" if types else ""
    single, pair = "<s> $A </s>", f"<s> $A </s> </s> $B{second} </s>{second}"
    if name == "qwen3":
        single, pair = "$A </s>", "$A </s> $B </s>"
    vocabulary_size = write_tokenizer(folder, corpus, scored, single=single, pair=pair)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "eos_token": "</s>"}
    write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 10**30,
            **({"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]} if types else {}),
            **names,
        },
    )
    kind, arguments, _, _ = CONFIGS[name]
    sizes = {} if name == "distilbert" else _SIZES
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if name == "modernbert":
        tokens |= {"cls_token_id": 0, "sep_token_id": 2}
    return getattr(transformers, kind)(
        vocab_size=vocabulary_size, initializer_range=0.3, **tokens, **sizes, **arguments
    )


def write(path, content):
    path.write_text(json.dumps(content))
