// An HTTP server that writes the id of each request, which is its path, waits, and answers with it. See ../README.md.
//
// Arguments: the port, up to how many milliseconds it waits, and for TLS the files of a certificate and its key.
'use strict'

const fs = require('node:fs')

const [port, delay, certificate, key] = process.argv.slice(2)
const http = require(certificate ? 'node:https' : 'node:http')
const options = certificate
  ? { cert: fs.readFileSync(certificate), key: fs.readFileSync(key), minVersion: 'TLSv1.3' }
  : {}
// Far longer than a client is silent: connections are ended by what is tested, and by nothing else.
options.keepAliveTimeout = 120_000

const server = http.createServer(options, (request, response) => {
  const id = request.url.slice(1)
  process.stdout.write(id + '\n')
  setTimeout(() => response.end(id), Math.random() * Number(delay))
})
server.listen(Number(port), '0.0.0.0', () => process.stdout.write('listening\n'))
