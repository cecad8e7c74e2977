"""The user's job: model, optimiser, schedule and stopping rule; checked, and written as JSON.

It must not know how or where a run is carried out.
"""
