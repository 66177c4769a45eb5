"""The cross-encoder against transformers' own BERT, read one sequence at a time; what has no room; what is refused."""

import itertools
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import (
    BertModel,
    BertTokenizer,
    CamembertConfig,
    CamembertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from personae import results
from personae.models.selection.bert import BERT
from personae.nn import pretrained
from personae.nn.cross_encoder import CrossEncoder, Judge, Keys, Passes, Sequences, stepped
from personae.tasks.selection import Selection
from personae.types import Example, InputError

Make = Callable[..., CrossEncoder]

LENGTHS = (3, 9, 4, 9, 30, 9, 17, 5)


@pytest.fixture
def make(backbone: str) -> Make:
    def make(source: str | None = None, *, longest: int = 40, dropout: float = 0.0, subtypes: int = 0) -> CrossEncoder:
        torch.manual_seed(0)
        return CrossEncoder(source or backbone, longest=longest, dropout=dropout, subtypes=subtypes).eval()

    return make


def drawn(encoder: CrossEncoder, lengths: Sequence[int] = LENGTHS) -> list[Keys]:
    """Sequences of so many tokens, of any kinds."""
    torch.manual_seed(1)
    tokens, kinds = len(encoder.tokenizer), 2 * encoder.rows
    return [(tuple(torch.randint(tokens, (n,)).tolist()), tuple(torch.randint(kinds, (n,)).tolist())) for n in lengths]


def gathered(encoder: CrossEncoder, keys: Sequence[Keys]) -> tuple[Sequences, Tensor]:
    batch = encoder.gather([], [[[key] for key in keys]])
    return batch.sequences, batch.places[0, 0]


def published(encoder: CrossEncoder, key: Keys) -> Tensor:
    """What transformers' BERT makes of a sequence; a subtype is added to the embeddings of its tokens."""
    tokens, kinds = (torch.tensor([part]) for part in key)
    bert: BertModel = encoder.backbone
    words = bert.embeddings.word_embeddings(tokens)
    if encoder.subtypes is not None:
        words = words + encoder.subtypes(kinds // 2)
    segments = kinds % min(2, bert.config.type_vocab_size)
    pooled: Tensor = bert.pooler(bert(inputs_embeds=words, token_type_ids=segments).last_hidden_state)[0]
    return pooled


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("subtypes", [0, 3])
def test_the_states_are_those_of_transformers(
    make: Make, precision: torch.dtype, tolerance: float, training: bool, subtypes: int
) -> None:
    encoder = make(subtypes=subtypes).to(precision).train(training)
    keys = drawn(encoder)
    sequences, places = gathered(encoder, keys)
    pooled = encoder(sequences)[places]
    for row, key in zip(pooled, keys, strict=True):
        torch.testing.assert_close(row, published(encoder, key), atol=tolerance, rtol=0)
    assert pooled.std(0).mean() > 1000 * tolerance


@pytest.fixture
def relative(request: pytest.FixtureRequest, backbone: str, tmp_path: Path) -> str:
    """A folder with a random encoder of the family, of 40 positions, and a tokenizer of its own kind."""
    special = {"pad_token_id": 1, "max_position_embeddings": 42, "type_vocab_size": 1}  # as the published ones have it
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    relatives = {"xlm-roberta": (XLMRobertaConfig, XLMRobertaModel), "camembert": (CamembertConfig, CamembertModel)}
    if request.param == "electra":
        letters = len(BertTokenizer.from_pretrained(backbone))
        config: Any = ElectraConfig(**small, vocab_size=letters, embedding_size=8, max_position_embeddings=40)
        ElectraModel(config).save_pretrained(tmp_path)
        BertTokenizer.from_pretrained(backbone).save_pretrained(tmp_path)
    else:
        letters = [chr(ord("a") + place) for place in range(26)]
        known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *letters, *("\u0120" + one for one in letters)]
        merges = [("\u0120", one) for one in letters]
        tokenizer = RobertaTokenizer(vocab={word: number for number, word in enumerate(known)}, merges=merges)
        tokenizer.save_pretrained(tmp_path)
        configure, model = relatives.get(request.param, (RobertaConfig, RobertaModel))
        model(configure(**small, **special, vocab_size=len(known))).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("relative", ["roberta", "xlm-roberta", "camembert", "electra"], indirect=True)
def test_relatives_of_bert_are_read_as_transformers_reads_them(relative: str) -> None:
    encoder = CrossEncoder(relative, longest=40, dropout=0, subtypes=3).double().eval()
    for weight in encoder.parameters():
        weight.data += 0.3 * torch.randn_like(weight)  # so that nothing is alike
    keys = drawn(encoder, (*LENGTHS, 40))
    sequences, places = gathered(encoder, keys)
    for row, key in zip(encoder(sequences)[places], keys, strict=True):
        torch.testing.assert_close(row, published(encoder, key), atol=1e-12, rtol=0)


@pytest.mark.parametrize("relative", ["roberta", "electra"], indirect=True)
def test_relatives_of_bert_choose_replies_and_need_their_folder_no_longer(
    relative: str, cases: Sequence[Example], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = BERT(backbone=relative, longest=40, dropout=0).eval()
    with torch.no_grad():
        scores = model.score(model.collate(cases))
    assert scores.isfinite().all()
    assert scores.std() > 0
    kept = tmp_path / "run" / "backbone"
    model.encoder.keep(kept)
    again = BERT(backbone=str(kept), longest=40, dropout=0).eval()
    with pytest.raises(
        InputError,
        match=rf"^task\.model\.backbone: {kept} is without weights, .*; start from the run with --init_from "
        rf"{kept.parent}, or name another$",
    ):
        again.prepare([])
    with torch.no_grad():
        assert again.score(again.collate(cases)).isnan().all()
    again.load_state_dict(model.state_dict())
    again.prepare([])
    with torch.no_grad():
        torch.testing.assert_close(again.score(again.collate(cases)), scores)
    with pytest.raises(InputError, match="reads 40 tokens at most; set"):
        BERT(backbone=relative, longest=41)


@pytest.mark.parametrize("relative", ["roberta"], indirect=True)
def test_a_text_begins_with_a_word_also_where_spaces_belong_to_words(relative: str) -> None:
    encoder = CrossEncoder(relative, longest=40, dropout=0)
    tokens = encoder.tokens(["a b", " ", ""])
    assert encoder.tokenizer.convert_ids_to_tokens(tokens["a b"]) == ["\u0120a", "\u0120b"]
    assert tokens[""] == tokens[" "] == ()


@pytest.mark.parametrize("training", [False, True])
def test_the_gradients_are_those_of_transformers(make: Make, training: bool) -> None:
    encoder = make(subtypes=3).double().train(training)
    keys = drawn(encoder)
    sequences, places = gathered(encoder, keys)
    weights = torch.randn(len(keys), encoder.width).double()
    parameters = dict(encoder.named_parameters())
    ours = torch.autograd.grad((encoder(sequences)[places] * weights).sum(), list(parameters.values()))
    expected = torch.stack([published(encoder, key) for key in keys])
    theirs = torch.autograd.grad((expected * weights).sum(), list(parameters.values()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("most", [1, 20, 60, 10_000])
def test_chunks_change_nothing_but_memory(make: Make, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make(subtypes=3)
    sequences, _ = gathered(encoder, drawn(encoder))
    whole = encoder(sequences)
    chunks = list(sequences.chunks(most))
    assert [place for chunk, _ in chunks for place in range(chunk.start, chunk.stop)] == list(range(len(LENGTHS)))
    for chunk, length in chunks:
        assert length == stepped(sequences.lengths[chunk.stop - 1]) == stepped(max(sequences.lengths[chunk]))
        assert (chunk.stop - chunk.start) * length <= most or chunk.stop - chunk.start == 1
    monkeypatch.setattr(Sequences, "chunks", lambda self, given: iter(chunks))
    torch.testing.assert_close(encoder(sequences), whole, atol=1e-6, rtol=0)


def test_each_sequence_is_there_once(make: Make) -> None:
    encoder = make()
    first, second, third = drawn(encoder, (7, 3, 7))
    batch = encoder.gather([], [[[first, third], [second, third]], [[first, third]]])
    assert batch.sequences.lengths == (3, 7, 7)
    assert batch.places.tolist() == [[[1, 0], [1, -1]], [[2, 2], [2, -1]]]
    for place, (tokens, kinds) in enumerate((second, first, third)):
        there = batch.sequences.kinds[place] >= 0
        assert tuple(batch.sequences.distinct[batch.sequences.tokens[place, there]].tolist()) == tokens
        assert tuple(batch.sequences.kinds[place, there].tolist()) == kinds


def test_an_evaluation_in_half_precision_converts_each_weight_once(backbone: str, cases: Sequence[Example]) -> None:
    task = Selection(model=BERT(backbone=backbone, longest=40))
    ids = itertools.count()
    many = [replace(case, context=replace(case.context, id=str(next(ids)))) for _ in range(20) for case in cases]
    assert len(task.held_out(many)) > 2
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        results.predict(task, many, precision="bf16-mixed")
    converted = [
        event for event in seen.events() if event.name == "aten::_to_copy" and event.input_shapes[0] == [32, 16]
    ]
    assert len(converted) == 2  # the wide weight of each layer


def test_what_bfloat16_makes_of_it_is_close_and_learns(make: Make) -> None:
    encoder = make(subtypes=3).train()
    sequences, _ = gathered(encoder, drawn(encoder))
    exact = encoder(sequences)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(sequences)
    torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0)
    rounded.float().square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.parameters())


def test_dropout_is_everywhere_but_not_after_training(make: Make) -> None:
    encoder = make(dropout=0.5)
    rates = {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.5}
    sequences, _ = gathered(encoder, drawn(encoder))
    assert torch.equal(encoder(sequences), encoder(sequences))
    assert not torch.allclose(encoder.train()(sequences), encoder(sequences))
    assert not make().backbone.training
    assert CrossEncoder(encoder.backbone.name_or_path, longest=8, dropout=0.5).backbone.training


def test_the_judge_adds_what_each_pass_found() -> None:
    judge = Judge(width=3, passes=2, dropout=0.5).eval()
    nn.init.normal_(judge.output.bias)
    pooled, places = torch.randn(4, 3), torch.tensor([[[0, 1, 0], [2, -1, -1]], [[3, 3, 3], [1, -1, -1]]])
    logits = judge(pooled, places)
    for case, place in ((0, 0), (0, 1), (0, 2), (1, 0)):
        expected = judge.output(torch.cat([pooled[places[0, case, place]], pooled[places[1, case, place]]]))
        torch.testing.assert_close(logits[case, place], expected[0])
    assert logits[0, 0] == logits[0, 2]
    assert logits[1, 1:].tolist() == [-torch.inf] * 2
    assert not torch.equal(judge.train()(pooled, places), judge(pooled, places))


def test_the_batch_moves_to_a_device(make: Make) -> None:
    encoder = make()
    moved = encoder.gather([], [[[key] for key in drawn(encoder)]]).to("meta")
    parts = (moved.places, moved.target, moved.sequences.distinct, moved.sequences.tokens, moved.sequences.kinds)
    assert isinstance(moved, Passes)
    assert {part.device.type for part in parts} == {"meta"}


def test_a_sequence_has_its_special_tokens_segments_and_subtypes(make: Make) -> None:
    encoder = make(subtypes=3)
    start, end = encoder.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    assert encoder.sequence([(0, [7, 8]), (1, [9])], [(2, [6])]) == (
        (start, 7, 8, 9, end, 6, end),
        (0, 0, 0, 2, 2, 5, 5),  # 2 * subtype + segment
    )
    assert encoder.sequence([(1, [7])], None) == ((start, 7, end), (0, 2, 2))
    plain = make()
    assert plain.sequence([(0, [7, 8])], [(0, [6])]) == ((start, 7, 8, end, 6, end), (0, 0, 0, 0, 1, 1))


def test_special_tokens_that_are_written_out_are_text(make: Make) -> None:
    encoder = make()
    tokens = encoder.tokens(["a cat", "[SEP] [CLS]", "half a pair: \ud83d", "", "a " * 100])
    assert encoder.tokenizer.convert_ids_to_tokens(tokens["a cat"]) == ["a", "cat"]
    special = set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}
    assert not special.intersection(tokens["[SEP] [CLS]"])
    assert tokens[""] == ()
    assert len(tokens["a " * 100]) == 100
    assert encoder.tokens(["a cat"])["a cat"] is tokens["a cat"]


PERSONA, CONTEXT, RESPONSE = [(0, [10] * 3), (0, [11] * 4)], [(1, [12] * 5), (1, [13] * 6), (1, [14])], [(2, [15] * 6)]


@pytest.mark.parametrize(
    ("room", "persona", "context", "response", "lost"),
    [
        (25, (3, 4), (5, 6, 1), 6, ""),
        (24, (3, 4), (6, 1), 6, "the oldest utterances do not fit in"),
        (19, (3, 4), (1,), 6, "the oldest utterances do not fit in"),
        (13, (3, 4), (), 6, "nothing is left for the context in"),
        (12, (3, 3), (), 6, "the end of the persona does not fit in"),
        (9, (3,), (), 6, "the end of the persona does not fit in"),
        (8, (3,), (), 5, "the end of a candidate does not fit in"),
        (7, (2,), (), 5, "the end of the persona does not fit in"),
        (5, (1,), (), 4, "the end of a candidate does not fit in"),
    ],
)
def test_what_is_too_long_loses_half_the_reply_then_the_oldest_turns_then_the_end_of_the_persona(
    make: Make,
    room: int,
    persona: tuple[int, ...],
    context: tuple[int, ...],
    response: int,
    lost: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = make(longest=room + 3)
    with caplog.at_level(logging.WARNING):
        parts = encoder.fit(PERSONA, CONTEXT, RESPONSE)
        encoder.fit(PERSONA, CONTEXT, RESPONSE)
    assert [tuple(len(tokens) for _, tokens in part) for part in parts] == [persona, context, (response,)]
    assert parts[0] == [(row, tokens[:length]) for (row, tokens), length in zip(PERSONA, persona, strict=False)]
    assert parts[1] == CONTEXT[len(CONTEXT) - len(context) :]
    said = [record.message for record in caplog.records]
    assert len(set(said)) == len(said)  # each once
    assert bool(said) == bool(lost)
    if lost:
        assert f"some sequences are too long: {lost} {room + 3} tokens (task.model.longest)" in said


def test_of_a_last_utterance_that_is_too_long_the_end_is_read(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    encoder = make(longest=20)
    with caplog.at_level(logging.WARNING):
        told, turns, reply = encoder.fit([(0, [10] * 3)], [(1, [11]), (1, [*range(30)])], [(2, [15] * 6)])
    assert (told, turns, reply) == ([(0, [10] * 3)], [(1, [*range(22, 30)])], [(2, [15] * 6)])
    said = " ".join(record.message for record in caplog.records)
    assert "the oldest utterances do not fit in 20" in said
    assert "the beginning of the last utterance does not fit in 20" in said
    assert "nothing is left" not in said


def test_a_persona_that_leaves_no_room_is_read_as_far_as_it_fits(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    encoder = make(longest=20)
    with caplog.at_level(logging.WARNING):
        told, turns, reply = encoder.fit([(0, [*range(30)])], [(1, [11] * 4)], [(2, [15] * 6)])
    assert (told, turns, reply) == ([(0, [*range(11)])], [], [(2, [15] * 6)])
    said = " ".join(record.message for record in caplog.records)
    assert "nothing is left for the context in 20" in said
    assert "the end of the persona does not fit in 20" in said


def changed(folder: str, to: Path, **config: Any) -> str:
    shutil.copytree(folder, to)
    path = to / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return str(to)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "distilbert"},
            r"is no encoder like BERT, it is of the type 'distilbert'; name one of the types",
        ),
        ({"is_decoder": True}, r"is no encoder like BERT, it is of the type 'bert'"),
        ({"vocab_size": 20}, r"holds a tokenizer that is not its own, of \d+ tokens for 20 embeddings"),
        ({"vocab_size": 400}, r"holds a tokenizer that is not its own, of \d+ tokens for 400 embeddings"),
        (
            {"num_hidden_layers": 3},
            r"holds weights of another model than its config\.json says, without a fitting encoder\.layer\.2",
        ),
        (
            {"intermediate_size": 48},
            r"holds weights of another model than its config\.json says, without a fitting encoder\.layer\.0\.inter",
        ),
    ],
)
def test_a_backbone_that_is_no_bert_is_refused(
    backbone: str, make: Make, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = changed(backbone, tmp_path / "folder", **config)
    with pytest.raises(InputError, match=rf"^task\.model\.backbone: {folder} {message}"):
        make(folder)


def test_a_tokenizer_without_special_tokens_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make().tokenizer
    monkeypatch.setattr(type(tokenizer), "cls_token_id", None, raising=False)
    monkeypatch.setattr(pretrained.AutoTokenizer, "from_pretrained", lambda source: tokenizer)
    with pytest.raises(InputError, match=r"without \[CLS\], \[SEP\] and \[PAD\]"):
        make()


def test_a_folder_without_its_tokenizer_is_refused(backbone: str, make: Make, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        shutil.copy(Path(backbone) / file, tmp_path)
    with pytest.raises(InputError, match="tokenizer"):
        make(str(tmp_path))


@pytest.mark.parametrize("damage", ["empty", "weights", "tokenizer", "activation"])
def test_a_folder_that_cannot_be_loaded_is_refused(backbone: str, make: Make, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if damage == "weights":
        changed(backbone, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "activation":
        changed(backbone, folder, hidden_act="nope")
    elif damage == "tokenizer":
        changed(backbone, folder)
        (folder / "tokenizer.json").write_text("[]")
    elif damage == "empty":
        folder.mkdir()
    with pytest.raises(InputError, match=r"^task\.model\.backbone: .* cannot be loaded, give a folder or a hub id"):
        make(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "~/bert", "/a/b/c", "runs/backbones/bert"])
def test_a_folder_that_is_not_there_is_not_sought_on_a_hub(make: Make, name: str) -> None:
    with pytest.raises(InputError, match=rf"^task\.model\.backbone: {re.escape(name)}: there is no such folder$"):
        make(name)


def test_loading_is_quiet_also_where_the_pooler_is_new(
    backbone: str, make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    BertModel.from_pretrained(backbone, add_pooling_layer=False).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(backbone) / file, tmp_path)
    capfd.readouterr()
    encoder = make(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert encoder.backbone.pooler.dense.weight.std() > 0
