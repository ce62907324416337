"""The worker: claims runs, supervises one training process per slot, and reports what it says. Free of torch.

A Celery message only nudges it; what to run is the backend's to say. It starts ``python -m core train`` as a process
and never trains by itself, so that a cancel can end a training for certain and a crash takes nothing else along.
"""
