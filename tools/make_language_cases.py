#!/usr/bin/env python3
"""Writes the reference cases `mistral`, `phi3_long`, `t5_small` and `languages` into tests/reference: small random language models of transformers, their logits, loss and
gradients in float64, greedy ids and beams. Needs torch, transformers, tokenizers and safetensors; two runs write the same bytes.

    tools/make_language_cases.py [tests/reference [CASE...]]"""
import contextlib
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.overrides import TorchFunctionMode

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests" / "reference")
SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "rms_norm_eps": 1e-5}
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 1}
OPT = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
       "word_embed_proj_dim": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "dropout": 0.0}
T5 = {"vocab_size": 259, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 3, "relative_attention_num_buckets": 8,
      "relative_attention_max_distance": 12, "pad_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2, "dropout_rate": 0.0}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1], "long_factor": [1.5, 4.0]}
NOISE = 1e-5  # of the largest value: what float32 may differ by
PROMPTS = ["The old clock", "a photo of a small red cat", "In 2019, a tree and a very long river were seen"]


class Wide(TorchFunctionMode):
    """What a model pins to float32 (norms, angles, softmax) is float64 here."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def widen(x):
            return torch.float64 if x is torch.float32 else x
        if function is torch.Tensor.float:
            return args[0].double()
        return function(*map(widen, args), **{k: widen(v) for k, v in (kwargs or {}).items()})


@contextlib.contextmanager
def wide():
    torch.set_default_dtype(torch.float64)
    try:
        with Wide():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def build(kind, settings, seed, dtype=torch.float32):
    """A model in float64 whose weights are rounded as the file will have them."""
    config = getattr(transformers, kind + "Config")(**settings)
    suffix = {"GPT2": "LMHeadModel", "T5": "ForConditionalGeneration"}.get(kind, "ForCausalLM")
    name = {"GPT2Model": "GPT2Model"}.get(settings.get("head"), kind + suffix)
    generator = torch.Generator().manual_seed(seed)
    with wide():
        model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for p in model.parameters():
            x = torch.randn(p.shape, generator=generator, dtype=torch.float32) * (0.4 if p.dim() > 1 else 0.2)
            p.data = (x + (1 if p.dim() == 1 else 0)).to(dtype).double()
    return model


def save_model(model, folder, dtype=torch.float32, rename=lambda k: k, extra=None, **settings):
    """config.json and the weights; `settings` are laid over the config as hub checkpoints have them, None takes a key away."""
    folder.mkdir(parents=True)
    tied = getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head")
    state = {rename(k): v.detach().to(dtype).contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file({**state, **(extra or {})}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**json.loads(model.config.to_json_string(use_diff=False)), "architectures": [type(model).__name__], **settings}
    drop = {"transformers_version", "_name_or_path", "dtype", "id2label", "label2id", "chunk_size_feed_forward", "return_dict", "output_attentions",
            "output_hidden_states", "is_encoder_decoder", "problem_type"}
    config = {k: v for k, v in config.items() if k not in drop and not (k in settings and settings[k] is None)}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def answers(model, inputs, grad):
    """Outputs under transformers' names, and the loss and every gradient."""
    model.zero_grad()
    with wide():
        out = model(**inputs)
    if "last_hidden_state" in out:
        return {"last_hidden_state": out.last_hidden_state}, None
    outputs = {k: out[k] for k in ("logits", "encoder_last_hidden_state") if k in out}
    if not grad:
        return outputs, None
    out.loss.backward()
    return outputs, {"loss": out.loss, **{f"grad.{k}": p.grad for k, p in model.named_parameters()}}


def store(tensors, path):
    save_file({k: (v.detach().float() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}, path)


def batch(seed, length, vocab=64):
    """Two texts, of which the second ends early."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length - length // 3:] = 0
    ids[mask == 0] = 2
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def forward_check(folder, check, model, inputs, model_folder="model", grad=False):
    outputs, gradients = answers(model, inputs, grad)
    given = inputs if grad else {k: v for k, v in inputs.items() if k != "labels"}
    store(given, folder / f"in.{check}.safetensors")
    store(outputs, folder / f"out.{check}.safetensors")
    spec = {"check": check, "kind": "forward", "model": model_folder, "in": f"in.{check}.safetensors", "out": f"out.{check}.safetensors",
            "tol": {"rel_to_max": {k: NOISE for k in outputs}, "grad_rel_l2": 1e-4},
            "valid": {k: "attention_mask" for k in outputs if outputs[k].shape[1] == inputs["attention_mask"].shape[1]}}
    if grad:
        store(gradients, folder / f"grad.{check}.safetensors")
        spec["grad"] = f"grad.{check}.safetensors"
    return spec


def byte_tokenizer(folder):
    """Every byte a token, behind <s>, </s> and <pad>."""
    special = ["<s>", "</s>", "<pad>"]
    vocab = {t: i for i, t in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(special)
    tok.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                                                              "pad_token": "<pad>"}) + "\n")
    return tok


def generate_ids(model, tok, prompt, **how):
    ids = torch.tensor([tok.encode(prompt).ids])
    with wide(), torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **how)
    return out[0, 1 if model.config.is_encoder_decoder else ids.shape[1]:].tolist()


def greedy_checks(model, tok, prompts, new):
    checks = []
    for i, prompt in enumerate(prompts):
        ids = generate_ids(model, tok, prompt, max_new_tokens=new)
        checks.append({"check": f"generate_{i}", "kind": "generate", "model": "model", "prompt": prompt, "max_new_tokens": new, "ids": ids,
                       "text": tok.decode(ids, skip_special_tokens=True)})
    return checks


def beam_answers(model, tok, penalties):
    """What check.py has no switch for: tests/generation.py runs these."""
    def one(prompt, **how):
        return {"prompt": prompt, **how, "ids": generate_ids(model, tok, prompt, **how)}
    beams = [one(p, max_new_tokens=12, num_beams=n, length_penalty=penalty, early_stopping=early)
             for p in PROMPTS[:2] for n in (2, 3, 5) for penalty in penalties for early in (False, True)]
    beams += [one(p, max_new_tokens=12, min_new_tokens=7, num_beams=n) for p in PROMPTS[:2] for n in (1, 3)]
    return beams + [one(p, max_new_tokens=16, repetition_penalty=r) for p in PROMPTS[:2] for r in (0.7, 1.3)]


def finish(folder, name, about, checks):
    case = {"case": name, "about": about, "made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
            "precision": "weights as rounded on disk, arithmetic in float64, results rounded to float32", "notes": [], "checks": checks}
    (folder / "case.json").write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")


def fresh(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def with_tokenizer(folder, model, generation_eos=None, **settings):
    save_model(model, folder / "model", **settings)
    (folder / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": generation_eos or 1}) + "\n")
    model.generation_config.eos_token_id = generation_eos or 1
    model.generation_config.pad_token_id = 2
    return byte_tokenizer(folder / "model")


def mistral():
    folder = fresh("mistral")
    model = build("Mistral", {**SMALL, "vocab_size": 259, "sliding_window": 7}, 41)
    ends = [1, *range(100, 110)]  # so many that some beams end early
    tok = with_tokenizer(folder, model, ends)
    checks = [forward_check(folder, "forward", model, batch(1, 24, 259), grad=True), *greedy_checks(model, tok, PROMPTS, 16)]
    (folder / "generation.json").write_text(json.dumps(beam_answers(model, tok, (-1.0, 0.5, 1.0, 2.0))) + "\n")
    finish(folder, "mistral", "MistralForCausalLM: a window of 7 keys in texts of 24, 4 heads over 2", checks)


def phi3_long():
    """The original context is 16: texts below it, beyond it, and answers that go over it."""
    folder = fresh("phi3_long")
    settings = {**SMALL, "vocab_size": 259, "num_attention_heads": 2, "num_key_value_heads": 1, "original_max_position_embeddings": 16,
                "rope_parameters": {**LONG, "partial_rotary_factor": 0.5}}
    model = build("Phi3", settings, 42)
    scaling = {"type": "longrope", "short_factor": LONG["short_factor"], "long_factor": LONG["long_factor"]}
    tok = with_tokenizer(folder, model, rope_parameters=None, rope_theta=10000.0, rope_scaling=scaling, partial_rotary_factor=0.5)
    checks = [forward_check(folder, "short", model, batch(1, 16, 259), grad=True), forward_check(folder, "long", model, batch(1, 24, 259), grad=True),
              *greedy_checks(model, tok, [*PROMPTS, "sixteen letters.", "fifteen letters"], 12)]
    (folder / "generation.json").write_text(json.dumps(beam_answers(model, tok, (1.0,))) + "\n")
    finish(folder, "phi3_long", "Phi3ForCausalLM with LongRoPE on half of a head's dimensions, original context 16", checks)


def t5_small():
    """Beams of an encoder-decoder, gated and not tied as T5 1.1 and Flan-T5 are: answers of another length than what they are about."""
    folder = fresh("t5_small")
    model = build("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 43)
    tok = with_tokenizer(folder, model, [1, *range(100, 110)])
    (folder / "generation.json").write_text(json.dumps(beam_answers(model, tok, (-1.0, 1.0))) + "\n")


def languages():
    """One difference a model; all read two texts of 24."""
    folder, checks = fresh("languages"), []

    def add(name, kind, settings, grad=False, dtype=torch.float32, **saved):
        model = build(kind, settings, 50 + len(checks), dtype)
        save_model(model, folder / name, dtype, **saved)
        checks.append(forward_check(folder, name, model, batch(2, 24), name, grad))

    def rope(**parameters):
        return {**SMALL, "rope_parameters": {"rope_theta": 10000.0, **parameters}}

    add("linear", "Llama", rope(rope_type="linear", factor=4.0), rope_parameters=None, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0})
    add("dynamic", "Llama", rope(rope_type="dynamic", factor=4.0))
    add("yarn", "Llama", rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.5))
    add("yarn_plain", "Llama", rope(rope_type="yarn", factor=2.0))
    add("llama3", "Llama", rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))
    add("llama_bias", "Llama", {**SMALL, "attention_bias": True, "mlp_bias": True, "head_dim": 6, "tie_word_embeddings": True}, grad=True)
    add("llama_bf16", "Llama", SMALL, dtype=torch.bfloat16)
    add("mistral_fp16", "Mistral", {**SMALL, "sliding_window": None, "head_dim": 6}, dtype=torch.float16)
    masks = {f"h.{i}.attn.bias": torch.ones(64, 64).tril()[None, None] for i in range(2)}
    add("gpt2_hub", "GPT2", {**GPT2, "n_inner": None}, grad=True, rename=lambda k: k.removeprefix("transformer."), extra=masks)
    add("gpt2_untied", "GPT2", {**GPT2, "n_inner": 24, "tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"}, grad=True)
    add("gpt2_headless", "GPT2", {**GPT2, "n_inner": 24, "scale_attn_weights": False, "head": "GPT2Model"})
    add("opt_350m", "OPT", {**OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False}, grad=True)
    add("opt_untied", "OPT", {**OPT, "tie_word_embeddings": False, "enable_bias": False, "activation_function": "gelu"}, grad=True)
    add("phi3_window", "Phi3", {**SMALL, "sliding_window": 7}, grad=True)
    finish(folder, "languages", "what checkpoints of LLaMA, Mistral, Phi-3, GPT-2 and OPT differ by, one a model", checks)


def main():
    transformers.logging.set_verbosity_error()
    for case in (mistral, phi3_long, t5_small, languages):
        if not sys.argv[2:] or case.__name__ in sys.argv[2:]:
            case()


main()
