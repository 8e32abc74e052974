"""The review page, where people sign in, find a study, see the bundle's answer and judge it.

It runs in its own process beside the node, so that browser requests never share a process with the receiver, and each
survives a crash of the other. It reads the node's queue, and writes only sessions, the audit record and feedback.
"""
