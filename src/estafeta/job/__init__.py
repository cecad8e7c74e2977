"""What the user writes: the job, its optimiser, schedule and stopping rule; checked, and written as JSON.

It must not know how or where a run is carried out.
"""
