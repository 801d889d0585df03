"""Proposers: each turns a ResearchContext into the next Proposal."""
