// undici: a client, which is one connection, for each worker.
'use strict'

const load = require('./load.js')
const undici = require('undici')
const { version } = require('undici/package.json')

function prepare () {
  const client = new undici.Client(load.origin, { connect: { ca: load.ca } })
  return async (id) => {
    const signal = AbortSignal.timeout(load.patience)
    const { body } = await client.request({ path: `/${id}`, method: 'POST', signal })
    return body.text()
  }
}

load.run('undici', version, prepare)
