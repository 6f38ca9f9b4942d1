"""The HTTP API and the pages (docs/api.md): one process serves one merchant, environment and upstream.

``app`` puts the parts together, ``access`` says who asks, ``problems`` what is wrong, ``shell`` keeps the rest out.
"""
