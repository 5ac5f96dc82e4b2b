// Node's own http and https: an agent with one connection for each worker.
'use strict'

const load = require('./load.js')
const http = require(load.ca ? 'node:https' : 'node:http')

function prepare () {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1, ca: load.ca })
  return (id) => new Promise((resolve, reject) => {
    const request = http.request(`${load.origin}/${id}`, { agent, method: 'POST', timeout: load.patience })
    request.on('error', reject)
    request.on('timeout', () => request.destroy(new Error('no answer')))
    request.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8').on('error', reject)
      response.on('data', (part) => { text += part })
      response.on('end', () => resolve(text))
    })
    request.end()
  })
}

load.run('node:http', process.version, prepare)
