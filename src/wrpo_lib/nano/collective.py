"""Rows that train nothing (Table 2): every source answers, and a rule chooses among the answers.

The paper names a reward model, a pairwise ranker, the perplexity of the prompt and a vote; how each
errs here is ours.
"""

from collections import Counter

import numpy as np
import torch

from wrpo_lib.nano.batch import token_logps
from wrpo_lib.nano.fusion import Model, Texts
from wrpo_lib.nano.world import Prompt, World, letters, quality, reward_noise

COLLECTIVE = ("sources_reward", "sources_pairwise", "sources_perplexity", "sources_vote")


def chosen(rule: str, prompt: Prompt, texts: list[str], sigma: float, familiar: list[float]) -> int:
    """Whose answer a rule takes, of ``texts``, one a source.

    The best by the reward model, whose noise has the s.d. ``sigma``; the one that wins most
    comparisons in pairs, each with an error of its own; that of the source to which the prompt is
    the most probable, by ``familiar`` log-probabilities; the one that most give, in the words of
    the first that gives it.
    """
    if rule == "sources_perplexity":
        return int(np.argmax(familiar))
    if rule == "sources_vote":
        said = [letters(text) for text in texts]
        return said.index(Counter(said).most_common(1)[0][0])
    scores = np.array([quality(prompt, text) for text in texts])
    if rule == "sources_reward":
        return int(np.argmax(scores + sigma * np.array(reward_noise(prompt, texts))))
    pairs = [f"{a}|{b}" for a in texts for b in texts]
    noise = np.reshape(reward_noise(prompt, pairs), (len(texts), -1))
    gaps = scores[:, None] - scores + sigma * (noise - noise.T)
    return int(np.argmax((gaps > 0).sum(1)))


@torch.no_grad()
def choose(rule: str, worlds: list[World], sources: list[Model], texts: list[Texts]) -> Texts:
    """The chosen ones of the sources' responses to the held-out prompts, sample by sample."""
    sigma, known = worlds[0].recipe["reward"]["sigma"], []
    for model in sources:  # in nats a prompt, since tokens differ from vocabulary to vocabulary
        ids = torch.stack([model.prompt_ids(world.splits["heldout"]) for world in worlds])
        known.append(token_logps(model.params, ids, 1, model.shape.heads).sum(-1).tolist())
    found: Texts = []
    for s, world in enumerate(worlds):
        found.append([])
        for k, prompt in enumerate(world.splits["heldout"]):
            familiar = [of_source[s][k] for of_source in known]
            said = map(list, zip(*(of_source[s][k] for of_source in texts), strict=True))
            found[s].append([own[chosen(rule, prompt, own, sigma, familiar)] for own in said])
    return found
