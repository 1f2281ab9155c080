"""What operators do to a use case beside its nights: move the champion, backfill, score, repair, back up, tidy.

One module a subject, and most have a pair of functions: one that plans or looks, one that carries out.
"""
