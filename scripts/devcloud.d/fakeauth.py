"""A WSGI filter for `devcloud --auth fake`: the token "user:project:role,role" is believed as it stands.

It sets the identity headers that keystonemiddleware would set after asking Keystone, so that Glance's own policy and
multi-tenancy can be tested without Keystone. Without such a token a request is anonymous, which Glance answers with 401.
"""

FORGED = ("HTTP_X_IDENTITY", "HTTP_X_PROJECT", "HTTP_X_TENANT", "HTTP_X_USER", "HTTP_X_ROLES")


def filter_factory(global_conf, **local_conf):
    def wrap(app):
        def call(environ, start_response):
            for key in [k for k in environ if k.startswith(FORGED)]:
                del environ[key]
            parts = environ.get("HTTP_X_AUTH_TOKEN", "").split(":")
            if len(parts) == 3:
                environ["HTTP_X_IDENTITY_STATUS"] = "Confirmed"
                environ["HTTP_X_USER_ID"], environ["HTTP_X_PROJECT_ID"], environ["HTTP_X_ROLES"] = parts
            return app(environ, start_response)

        return call

    return wrap
