"""A small server that answers the requests of Vespa that a loader makes, and compares vectors as the schema says."""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np


class VespaServer(ThreadingHTTPServer):
    """Documents in memory, for one application package."""

    def __init__(self, schema: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        said = schema.read_text()
        self.name = schema.stem
        cells, length = re.search(r"field embedding type tensor<(\w+)>\(x\[(\d+)\]\)", said).groups()
        self.dtype, self.length = np.dtype({"float": ">f4", "int8": "i1"}[cells]), int(length)
        self.metric = re.search(r"distance-metric: (\S+)", said)[1]
        self.expression = re.search(r"expression: (.+)", said)[1]
        self.documents: dict[str, dict[str, Any]] = {}
        self.answers_busy = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, id_: str, fields: dict[str, Any]) -> None:
        vector = np.frombuffer(bytes.fromhex(fields["embedding"]["values"]), self.dtype)
        assert len(vector) == self.length
        self.documents[id_] = {**fields, "embedding": vector}

    def relevance(self, vector: np.ndarray, query: np.ndarray) -> float:
        """The rank profile's expression, evaluated."""
        inner = float(vector.astype(float) @ query)
        if self.metric == "dotproduct":
            distance, closeness = -inner, inner
        elif self.metric == "angular":
            cosine = inner / np.linalg.norm(vector.astype(float)) / np.linalg.norm(query)
            distance, closeness = float(np.arccos(cosine)), 0.0
        else:
            differing = vector.view(np.uint8) ^ query.astype(np.int8).view(np.uint8)
            distance, closeness = int(np.unpackbits(differing).sum()), 0.0
        names = {"distance": lambda *_: distance, "closeness": lambda *_: closeness, "cos": np.cos}
        return float(eval(self.expression, {**names, "field": "field", "embedding": "embedding"}))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes
    server: VespaServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        document = re.fullmatch(
            f"/document/v1/{self.server.name}/{self.server.name}/docid/([^/?#]+)", self.path
        )
        if self.server.answers_busy:
            self.server.answers_busy -= 1
            self.answer(429, {"message": "too many requests"})
        elif document:
            self.server.put(unquote(document[1]), body["fields"])
            self.answer(200, {"pathId": self.path})
        elif self.path == "/search/":
            self.answer(200, self.found(body))
        else:
            self.answer(404, {"message": "no such path"})

    def found(self, body: dict[str, Any]) -> dict[str, Any]:
        form = (
            f"select text_id, text, metadata from {self.server.name} where "
            r"{targetHits: (\d+), approximate: (?:true|false)}nearestNeighbor\(embedding, q\)"
        )
        assert re.fullmatch(form.replace("{t", r"\{t").replace("}n", r"\}n"), body["yql"])
        assert body["ranking"] == "similarity"
        query = np.array(body["input.query(q)"], dtype=float)
        hits = [
            {
                "relevance": self.server.relevance(fields["embedding"], query),
                "fields": {name: fields[name] for name in ("text_id", "text", "metadata") if fields[name]},
            }
            for fields in self.server.documents.values()
        ]
        return {"root": {"children": sorted(hits, key=lambda hit: -hit["relevance"])[: body["hits"]]}}

    def answer(self, status: int, body: dict[str, Any]) -> None:
        said = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""
