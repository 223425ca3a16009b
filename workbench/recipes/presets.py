"""Recipes: settings of both stages that belong together, for one backbone on one kind of machine.

    python notebooks/pretrain.py --recipe minilm-full
    python notebooks/distill.py --recipe minilm-full

Every other argument changes a single setting. What the paper (arXiv 2606.25674) gives is taken from it; where it gives
nothing, or the machine forbids it, the reason stands beside the value. The recipes for GPUs are written down and checked,
but have not been run; shorter stages of Gemma-3-270M, with Muon and a teacher from stage 1 on, are in
gemma3_stages_h200.json.
"""

from dataclasses import dataclass, replace

from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import StagesConfig


@dataclass(frozen=True)
class Recipe:
    """Settings of stage 1, and of stages 0 and 2."""

    about: str
    pretrain: PretrainConfig
    distill: StagesConfig


# Text of many kinds; the largest sources of technical one-liners (API documentation, dictionary entries) are left out.
MINILM_PAIRS = ",".join(
    (
        "debian-description",
        "wordnet-gloss",
        "wordnet-example",
        "bible-kjv-web",
        "foldoc",
        "jargon-file",
        "boolq-train",
        "boolq-sentences",
        "story-sentences",
        "news-sentences",
        "edited-sentences",
        "edited-examples",
        "cwe",
        "email-subject-body",
        "multilexsum",
        "quac-first-question",
        "docstring-code",
        "docstring-summary-body",
    )
)

MINILM_FULL = Recipe(
    "all-MiniLM-L6-v2 on two CPU cores",
    PretrainConfig(
        backbone="minilm",
        teacher="minilm",
        out="runs/minilm-full/pretrain",
        pairs=MINILM_PAIRS,
        limit_per_source=12_000,
        steps=5000,
        batch_size=32,  # many small steps: the teacher's vectors are a signal that needs no negatives
        optimizer="muon",  # 200 steps of 16 pairs, 64 tokens: regression 1.16 at the end, AdamW 1.28
        learning_rate=5e-4,  # latent weights have to cross rounding thresholds; 8e-4 was used for 3000 steps
        warmup_share=0.05,
        max_length=128,
        # Vectors alone: attention relations take a quarter of a step; with them 200 steps from scratch end 2 % lower, 200
        # more of a trained model alike.
        regression_weight=5.0,
        contrastive_weight=0.02,  # hardly any: with 32 pairs InfoNCE is solved at once
        similarity_weight=0.1,
        exclude_tasks="offline",
        save_every=100,
    ),
    StagesConfig(
        backbone="runs/minilm-full/pretrain",
        teacher="minilm",
        out="runs/minilm-full/distill",
        # Sentences of all kinds beside the triplets, and changed ones: what has only triplets forgets other text.
        triplets="offline,boolq-sentences,story-sentences,news-sentences,wordnet-example,edited-sentences,edited-examples",
        limit_per_source=6000,
        steps=1000,
        batch_size=24,
        hard_negatives=1,  # more negatives of a query cost as much as more queries, which teach more
        learning_rate=1e-4,
        max_length=128,
        bits=(16, "int2-fitted", "binary-fitted"),  # 8 and 4 bits need no training
        rotation="random",
        float_queries_weight=1.0,
        regression_weight=5.0,
        # Both small: imitation keeps what the teacher knows of other text than these sources.
        contrastive_weight=0.02,
        similarity_weight=0.05,
        relation_weight=1.0,
        relation_heads=12,
        relation_temperature=0.1,
        output_map_texts=8000,  # cosine to the teacher on held-out news after 800 steps: 0.919, with the map 0.925
        tasks="offline",
        dev_every=100,
        save_every=100,
    ),
)


def _language_model(backbone: str, relation_layer: int, learning_rate: float) -> Recipe:
    """For one GPU of 80 GB."""
    return Recipe(
        f"{backbone} on one GPU of 80 GB",
        PretrainConfig(
            backbone=backbone,
            out=f"runs/{backbone}-1gpu/pretrain",
            pairs="offline",  # what is at hand; a mixture.json of shards for the paper's amounts
            steps=5000,
            batch_size=4096,  # the lineage (mE5) takes 32k, on many GPUs
            chunk_tokens=16_384,  # what their activations take: docs/training-at-scale.md
            learning_rate=learning_rate,  # not published
            max_length=128,  # not published; pairs of the lineage are short
            save_every=250,
        ),
        StagesConfig(
            backbone=f"runs/{backbone}-1gpu/pretrain",
            out=f"runs/{backbone}-1gpu/distill",
            steps=8000,  # half an epoch of the paper's 2.1M samples
            batch_size=128,  # paper
            hard_negatives=7,  # paper
            learning_rate=3e-5,  # paper
            chunk_tokens=16_384,
            max_length=512,
            relation_layer=relation_layer,  # paper
            teacher_steps=8000,
            teacher_learning_rate=5e-6,  # paper
            tasks="offline",
            save_every=250,
        ),
    )


def _on_8_gpus(one: Recipe) -> Recipe:
    """The paper's amounts: batches of 32k pairs until a billion have been seen, and a whole epoch of stage 2."""

    def out(path: str) -> str:
        return path.replace("-1gpu", "-8gpu")

    return Recipe(
        one.about.replace("one GPU", "8 GPUs"),
        replace(one.pretrain, out=out(one.pretrain.out), steps=30_000, batch_size=32_768),
        replace(
            one.distill,
            backbone=out(one.distill.backbone),
            out=out(one.distill.out),
            steps=16_000,
            teacher_steps=16_000,
        ),
    )


# Relation layers 18 of 28 and 10 of 18, counted from 0 here. The smaller model takes the higher learning rate.
GEMMA3 = _language_model("gemma3-270m", relation_layer=9, learning_rate=2e-4)
QWEN3 = _language_model("qwen3-0.6b", relation_layer=17, learning_rate=1e-4)

RECIPES: dict[str, Recipe] = {
    "minilm-full": MINILM_FULL,
    "gemma3-270m-1gpu": GEMMA3,
    "gemma3-270m-8gpu": _on_8_gpus(GEMMA3),
    "qwen3-0.6b-1gpu": QWEN3,
    "qwen3-0.6b-8gpu": _on_8_gpus(QWEN3),
}
PRETRAIN_RECIPES = {name: recipe.pretrain for name, recipe in RECIPES.items()}
DISTILL_RECIPES = {name: recipe.distill for name, recipe in RECIPES.items()}
