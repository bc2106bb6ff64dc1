// A PDS that keeps its data in a directory, so that it can be ended and started again.
// Settings: port, directory, plc (URL), serviceDid, rotationKey (hex), jwtSecret, adminPassword.
import { PDS } from '@atproto/pds'

import { listenOnLoopback, serveUntilEnd, settings } from './process.mjs'

const pds = await PDS.fromEnv({
  // Development mode: plain http and loopback addresses, also for the services it proxies to.
  devMode: true,
  disableSsrfProtection: true,
  // With this host name the DID documents name http://localhost:<port> as the PDS.
  hostname: 'localhost',
  port: settings.port,
  serviceDid: settings.serviceDid,
  dataDirectory: settings.directory,
  blobstoreDiskLocation: `${settings.directory}/blobs`,
  didPlcUrl: settings.plc,
  plcRotationKeyK256PrivateKeyHex: settings.rotationKey,
  jwtSecret: settings.jwtSecret,
  adminPassword: settings.adminPassword,
  serviceHandleDomains: ['.test'],
  inviteRequired: false,
  rateLimitsEnabled: false,
  // Of a repo that comes in by importRepo, in bytes.
  maxImportSize: 100_000_000,
  // A test may move an account or be restarted at any time: never trust a cached DID document.
  didCacheStaleTTL: 0,
  didCacheMaxTTL: 0,
})
listenOnLoopback(pds.app)
await pds.start()
serveUntilEnd(settings.port, () => pds.destroy())
