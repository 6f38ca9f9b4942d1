"""The pages for people, rendered here (docs/web.md): all of it works as plain links and forms, without JavaScript.

They ask what the HTTP API asks, and change nothing but by its functions.
"""
