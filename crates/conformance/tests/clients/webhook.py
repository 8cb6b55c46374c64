"""A webhook of admission in a pod, of nothing but Python: /mutate puts a label on what is new, /validate refuses the
word `rude`. HTTPS on port 8443, with the certificate and key in /tls."""

import base64
import http.server
import json
import socket
import ssl


def mutate(review):
    labels = dict(review["object"]["metadata"].get("labels") or {}, greeted="yes")
    patch = [{"op": "add", "path": "/metadata/labels", "value": labels}]
    return {"allowed": True, "patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}


def validate(review):
    if (review["object"].get("data") or {}).get("k") == "rude":
        return {"allowed": False, "status": {"code": 418, "message": "mind your words"}}
    return {"allowed": True, "warnings": ["heard"]}


class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge = {"/mutate": mutate, "/validate": validate}[self.path.partition("?")[0]]
        request = review.pop("request")
        answer = json.dumps(dict(review, response=dict(judge(request), uid=request["uid"]))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


server = Server(("::", 8443), Webhook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
# Handshakes belong to the connection's own thread, as whoever only probes the port never makes one.
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
