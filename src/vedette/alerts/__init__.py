"""Rules -> evidence -> state -> notification.

The engine looks at every rule once a minute. What it finds, the state and what is to be sent are
one transaction of the control database; another thread of the engine sends it.
"""
