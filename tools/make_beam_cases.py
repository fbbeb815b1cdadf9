#!/usr/bin/env python3
"""Writes tests/reference/blip_beams.json: what transformers' beam search says of pictures, on the reference models blip_caption and blip_vqa, in float64. Some
models' end token is another one (`sep`), which they say often: so texts end early, and lengths and their penalties matter. Needs torch, transformers, Pillow.

    tools/make_beam_cases.py [tests/reference]"""
import itertools
import json
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image

torch.set_num_threads(1)
REFERENCE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests" / "reference")
IMAGES = ["wide.png", "tall.png", "square.png"]
LENGTHS = [(8, 0), (20, 5)]  # max_new_tokens, min_new_tokens
CASES = {"blip_caption": ("BlipForConditionalGeneration", [None, "a photo of"], [3, 420]),
         "blip_vqa": ("BlipForQuestionAnswering", ["what color is the dog?", "is the cat on the table?"], [3, 91])}


def pixels_of(folder, name):
    processor = transformers.BlipImageProcessorPil.from_pretrained(folder) if hasattr(transformers, "BlipImageProcessorPil") else None
    processor = processor or transformers.BlipImageProcessor.from_pretrained(folder)
    return processor(Image.open(REFERENCE / "images" / name).convert("RGB"), return_tensors="pt")["pixel_values"].double()


def answer(model, pixels, ids, how):
    start = [] if ids is None else ids
    model.config.text_config.sep_token_id = how["sep"]
    with torch.no_grad():
        out = model.generate(pixel_values=pixels, **({"input_ids": torch.tensor([start])} if start else {}), do_sample=False, num_beams=how["num_beams"],
                             length_penalty=how["length_penalty"], early_stopping=how["early_stopping"], max_new_tokens=how["max_new_tokens"],
                             min_new_tokens=how["min_new_tokens"] or None)[0].tolist()
    before = len(start) - 1 if isinstance(model, transformers.BlipForConditionalGeneration) and start else 1
    out = out[before:]
    while out and out[-1] == model.config.text_config.pad_token_id:
        out.pop()
    return out


def main():
    cases = []
    for case, (kind, prompts, ends) in CASES.items():
        folder = REFERENCE / case / "model"
        model = getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager").double().eval()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        for name, prompt in itertools.product(IMAGES, prompts):
            pixels = pixels_of(folder, name)
            ids = tokenizer(prompt)["input_ids"] if prompt else None
            for end, beams, penalty, early, (most, least) in itertools.product(ends, [3, 5], [-1.0, 1.0, 2.0], [False, True], LENGTHS):
                how = {"sep": end, "num_beams": beams, "length_penalty": penalty, "early_stopping": early, "max_new_tokens": most, "min_new_tokens": least}
                cases.append({"case": case, "image": name, **({"prompt": prompt} if prompt else {}), **how, "ids": answer(model, pixels, ids, how)})
    text = ",\n".join(json.dumps(x) for x in cases)
    (REFERENCE / "blip_beams.json").write_text("[" + text + "]\n")
    print(len(cases), "cases,", len({tuple(x["ids"]) for x in cases}), "answers,", sum(x["ids"][-1] == x["sep"] for x in cases), "ended")


main()
