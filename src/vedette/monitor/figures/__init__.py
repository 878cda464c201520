"""The numbers under the pages: read from the columnar mirror, estimated by `vedette.quality`.

Scores belong to the time at which their trace, or their session's first trace, began: quality moved
when the agent did something else, not when a judge came to look at it.

What is summed. The variance of a weighted mean needs more than sums per hour: traces of one session
resemble each other, and a session may go on for hours. If a session lay in two hours,
the sums of its weights W and scores T would be split, and T**2 of the whole is not the sum of the
squares of the parts. So each answer groups by session first, over just the time it is of, and sums
the sessions up in the same pass (`vedette.quality.moments`); traces of no session pass through
ungrouped. Roll-ups per hour can't be joined that way unless each session is put down to one hour;
a pass over the mirror takes tens of milliseconds for a million scores, so none are kept. A session
that lies in both of two periods that are compared makes their means alike; the same pass gives the
sums for that correlation.
"""
