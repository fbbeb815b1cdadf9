"""A BlipForPretraining whose texts are as wide as its pictures: what it reads, writes and answers is what the answering reference model does."""
import json
import shutil

import numpy as np

from ocelli_run import CASES, load, save

ANSWERER = CASES / "blip_vqa" / "model"
WIDTH, PROJECTED = 48, 20


def copy_with(folder, source=ANSWERER, weights=lambda w: w, text=None, **settings):
    """The model of `source` with other weights, and other settings of its own and of its texts."""
    folder.mkdir()
    for x in source.iterdir():
        if x.name not in ("config.json", "model.safetensors"):
            shutil.copy(x, folder)
    config = json.loads((source / "config.json").read_text())
    config["text_config"].update(text or {})
    config.update(settings)
    (folder / "config.json").write_text(json.dumps(config))
    save(weights(load(source / "model.safetensors")), folder / "model.safetensors")
    return folder


def with_pairs(weights):
    draw = np.random.default_rng(5)
    for name, rows in (("vision_proj", PROJECTED), ("text_proj", PROJECTED), ("itm_head", 2)):
        weights[name + ".weight"] = draw.normal(0, 0.2, (rows, WIDTH)).astype(np.float32)
        weights[name + ".bias"] = draw.normal(0, 0.2, rows).astype(np.float32)
    return {**weights, "temp": np.array(0.07, np.float32)}


def does_all(folder):
    return copy_with(folder, weights=with_pairs, architectures=["BlipForPretraining"], image_text_hidden_size=PROJECTED)


def captions_only(folder):
    return copy_with(folder, weights=lambda w: {k: v for k, v in w.items() if not k.startswith("text_encoder.")}, architectures=["BlipForConditionalGeneration"])
