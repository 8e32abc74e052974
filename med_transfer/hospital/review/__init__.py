"""The review page: people sign in, find a study, see what the bundle says of it, and judge it.

It runs in a process of its own, beside the node: a browser's requests never share one with the receiver, and either
goes on when the other is killed. It reads the node's queue, and writes only who is signed in, what they did, and what
they think of a result.
"""
