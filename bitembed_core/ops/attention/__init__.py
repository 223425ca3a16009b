"""Attention of several texts that lie one after another without padding; rotary positions."""
