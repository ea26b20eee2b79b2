"""Rows that train nothing (Table 2): every source answers, and a rule chooses among the answers.

The paper names a reward model, a pairwise ranker, the perplexity of the prompt and a vote; how each
errs here is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from wrpo_lib.nano.batch import token_logps
from wrpo_lib.nano.fusion import Model, Texts
from wrpo_lib.nano.world import Prompt, World, letters, quality, reward_noise

Rule = Callable[[Prompt, list[str], float, list[float]], int]
"""Prompt, an answer of each source, the reward's noise, the prompt's log-probability under each
source -> whose answer is chosen."""


def by_reward(prompt: Prompt, texts: list[str], sigma: float, familiar: list[float]) -> int:
    """The best by the reward model."""
    noise = sigma * np.array(reward_noise(prompt, texts))
    return int(np.argmax([quality(prompt, text) for text in texts] + noise))


def by_pairs(prompt: Prompt, texts: list[str], sigma: float, familiar: list[float]) -> int:
    """The one that wins most comparisons in pairs, each with an error of its own."""
    scores = np.array([quality(prompt, text) for text in texts])
    pairs = [f"{a}|{b}" for a in texts for b in texts]
    noise = np.reshape(reward_noise(prompt, pairs), (len(texts), -1))
    gaps = scores[:, None] - scores + sigma * (noise - noise.T)
    return int(np.argmax((gaps > 0).sum(1)))


def by_perplexity(prompt: Prompt, texts: list[str], sigma: float, familiar: list[float]) -> int:
    """The source to whose model the prompt is the most probable."""
    return int(np.argmax(familiar))


def by_vote(prompt: Prompt, texts: list[str], sigma: float, familiar: list[float]) -> int:
    """The answer that most sources give, in the words of the first that gives it."""
    said = [letters(text) for text in texts]
    return said.index(Counter(said).most_common(1)[0][0])


COLLECTIVE: dict[str, Rule] = {
    "sources_reward": by_reward,
    "sources_pairwise": by_pairs,
    "sources_perplexity": by_perplexity,
    "sources_vote": by_vote,
}


def choose(rule: Rule, worlds: list[World], sources: list[Model], texts: list[Texts]) -> Texts:
    """The chosen ones of the sources' responses to the held-out prompts, sample by sample."""
    sigma, known = worlds[0].recipe["reward"]["sigma"], prompt_logps(worlds, sources)
    chosen = []
    for s, world in enumerate(worlds):
        rows = []
        for k, prompt in enumerate(world.splits["heldout"]):
            said = zip(*(of_source[s][k] for of_source in texts), strict=True)
            own = known[:, s, k].tolist()
            rows.append([of_all[rule(prompt, list(of_all), sigma, own)] for of_all in said])
        chosen.append(rows)
    return chosen


@torch.no_grad()
def prompt_logps(worlds: list[World], sources: list[Model]) -> np.ndarray:
    """log π of the held-out prompts under each source (sources, S, N); in nats a prompt, since
    tokens are not the same from one vocabulary to another."""
    found = []
    for model in sources:
        ids = torch.stack([model.prompt_ids(w.splits["heldout"]) for w in worlds])
        found.append(token_logps(model.params, ids, 1, model.shape.heads).sum(-1))
    return torch.stack(found).numpy()
