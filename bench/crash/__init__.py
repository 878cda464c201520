"""Kill everything, often, and then count: nothing acknowledged may be lost, doubled or unscored.

`ledger` is what clients were promised, `clients` are the clients, `victim` is the Vedette that is
killed, `verify` compares what can be read afterwards with what was promised.
"""
