"""A step on more texts than memory holds at once (GradCache, arXiv 2101.06983).

The contrastive losses need the embeddings of all texts together, their backward pass needs the activations of each text
only while it runs. So all texts are embedded without keeping activations, the losses give the gradient of every embedding,
and then each chunk goes through the model once more and is handed its own. Gradients are those of the whole batch; it costs
one more forward pass.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from workbench.recipes.distributed import sum_over_processes
from workbench.recipes.forward import Embedded, Tokens, as_batch, autocast, group_by_length, most_groups
from workbench.recipes.imitated import Imitated
from workbench.recipes.objective import Losses, Objective


def chunked_losses(
    objective: Objective,
    encoder: nn.Module,
    tokens: Tokens,
    teacher: tuple[Imitated, Tokens] | None,
    size: int,
    in_batch: bool,
    chunk: int,
    dtype: torch.dtype,
    scale: float,
    no_sync: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext,
) -> Losses:
    """The losses of a micro-batch of `size` examples, without gradient; `scale` times theirs is added to the parameters'.

    Args:
        encoder: the student's `Encoder`, perhaps wrapped.
        teacher: what it is asked through, and its own tokens of the same texts.
        chunk: tokens, with padding, that go through a model at once; a longer text goes alone.
        no_sync: keeps a wrapped encoder from averaging gradients over processes before the last chunk.
    """
    rows, groups = group_by_length(tokens, chunk, at_least=most_groups(tokens, chunk))
    with torch.no_grad(), autocast(tokens["input_ids"].device, dtype):
        grouped_ND = torch.cat([encoder([group])[0] for group in groups])
    embeddings_ND = grouped_ND[rows.argsort()].requires_grad_()
    student = Embedded(as_batch(embeddings_ND, size), [], [])
    imitated = None
    if teacher is not None:
        imitated = Embedded(as_batch(teacher[0].embeddings(teacher[1], chunk), size), [], [])
    losses = objective(student, imitated, in_batch)
    (scale * torch.stack(list(losses.terms.values())).sum()).backward()
    assert embeddings_ND.grad is not None
    gradients = embeddings_ND.grad[rows].split([len(group["input_ids"]) for group in groups])
    all_tokens = sum_over_processes(tokens["attention_mask"].sum())
    relations = torch.zeros((), device=embeddings_ND.device)
    for number, (group, gradient) in enumerate(zip(groups, gradients, strict=True)):
        is_last = number + 1 == len(groups)
        with nullcontext() if is_last else no_sync(encoder):
            with autocast(group["input_ids"].device, dtype):
                again_ND, states = encoder([group])
            handed_on = (again_ND * gradient).sum()
            if objective.relation_weight and teacher is not None:
                wanted = teacher[0].states([group])  # the same tokens: `Training` sees to that
                masks = [group["attention_mask"]]
                ours, theirs = (Embedded(student.batch, s, masks) for s in (states, wanted))
                part = objective.relation_weight * objective.relations(ours, theirs, all_tokens)
                relations += part.detach()
                handed_on = handed_on + scale * part
            handed_on.backward()
    if objective.relation_weight and teacher is not None:
        losses.terms["relations"] = relations
    return losses
