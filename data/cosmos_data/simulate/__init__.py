"""Simulated worlds: clips with exact cameras, actions, depth, instances and captions, each made of a seed."""
