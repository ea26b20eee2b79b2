"""Sampling and scoring: engines that answer alike, reward models, resumable stages."""
