"""SSRA: a score model and a query model that together write the relevance levels that labelled data lacks.

Li et al., "Semi-Supervised Synthetic Data Generation with Fine-Grained Relevance Control for Short Video
Search Relevance Modeling", AAAI 2026 (arXiv 2509.16717).
"""
