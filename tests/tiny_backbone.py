"""Random language models, small enough for any test, whose tokens are bytes or words."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

END, START = "<|endoftext|>", "<|start|>"

_SHARED = {"vocab_size": 260, "bos_token_id": 257, "eos_token_id": 256}
_LLAMA: dict[str, Any] = {
    **_SHARED,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 256,
}

CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**_LLAMA, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**_LLAMA, tie_word_embeddings=False),
    "llama-biased": lambda: LlamaConfig(**_LLAMA, attention_bias=True),  # which transformers decodes
    "gpt2": lambda: GPT2Config(**_SHARED, n_embd=24, n_layer=2, n_head=4, n_positions=256),
    "gemma2": lambda: Gemma2Config(**_LLAMA, query_pre_attn_scalar=6),
}


def write(folder: Path, kind: str, *, begins: bool = False) -> str:
    """Writes such a model into a folder, which is returned; its tokenizer `begins` texts with a token, or not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens([END, START])
    if begins:
        bytes_.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 257)])
    PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token=END, bos_token=START).save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]())
    for weight in model.parameters():  # so that texts are far apart, and no bias is zero
        weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return str(folder)


def write_words(folder: Path, words: Iterable[str], *, hidden: int = 128) -> str:
    """Writes a Llama of two layers whose tokens are these words into a folder, which is returned."""
    vocabulary = {word: number for number, word in enumerate([END, "<unk>", *words])}
    known = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=known, eos_token=END, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=hidden // 4,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)
